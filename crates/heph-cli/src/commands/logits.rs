//! `heph logits`: the numbers behind the words, for comparison with other programs.
//!
//! Out, for each prompt, all little-endian: i32 n, i32 vocabulary, f32 logits `(n, vocabulary)` of every position,
//! i32 g, i32 greedy ids `(g)`. A model that only reads has the rows of its last layer in their place. Printed: `blake3 HASH` of all logits in that order, without the counts and ids.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use heph_engine::model::Packing;
use heph_engine::worker::{Keep, Worker};
use heph_kernels::kv::KvFormat;
use heph_runtime::settings::Settings;
use heph_types::TokenId;

use crate::complete;
use crate::engine::EngineArguments;
use crate::failure::{Exit, Failure};

/// Write the logits of prompts given as token ids.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A name of `heph models list`, a GGUF file, or a Hugging Face folder
    #[arg(long, add = complete::model())]
    model: String,
    /// A text file: one prompt a line, token ids separated by blanks
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// Continue each prompt by this many of the likeliest tokens
    #[arg(long, default_value_t = 0, value_name = "N")]
    greedy: usize,
    /// Where the logits go
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    engine: EngineArguments,
}

/// Runs every prompt in a session of its own.
pub(crate) fn run(arguments: &Arguments, settings: &Settings) -> Result<(), Failure> {
    let prompts = read_prompts(&arguments.prompts)?;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    // Who compares numbers wants those of the model, not of a smaller cache.
    let kv = arguments.engine.kv.or(Some(KvFormat::F32));
    let running = EngineArguments {
        kv,
        ..arguments.engine.clone()
    };
    let wanted = longest.saturating_add(arguments.greedy);
    let opened = running.open(&arguments.model, Some(wanted), 1, settings)?;
    if wanted > opened.context() {
        let sentence = format!(
            "the longest prompt and --greedy need {wanted} tokens, and {} holds {}",
            arguments.model,
            opened.context()
        );
        return Err(Failure::new(Exit::Usage, sentence).hint("give shorter prompts or a smaller --greedy"));
    }
    let engine = opened.load(Packing::AtLoad)?;
    let mut worker = engine.worker();
    let mut sink = Sink::create(&arguments.out)?;
    for prompt in &prompts {
        if engine.model.graph().pooling.is_some() {
            let rows = worker.encode_rows(&[prompt])?;
            rows.iter()
                .try_for_each(|rows| sink.put(&rows.rows, prompt.len(), rows.width, &[]))?;
            continue;
        }
        let (logits, greedy) = answer(&mut worker, prompt, arguments.greedy)?;
        sink.put(&logits, prompt.len(), engine.model.graph().vocab, &greedy)?;
    }
    let hash = sink.finish()?;
    Ok(writeln!(io::stdout().lock(), "blake3 {hash}")?)
}

fn read_prompts(path: &Path) -> Result<Vec<Vec<TokenId>>, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|e| Failure::new(Exit::Input, format!("cannot read {}: {e}", path.display())))?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| ids(line).ok_or_else(|| not_ids(path, number + 1)))
        .collect()
}

fn ids(line: &str) -> Option<Vec<TokenId>> {
    line.split_whitespace()
        .map(|word| word.parse().ok().map(TokenId))
        .collect()
}

fn not_ids(path: &Path, line: usize) -> Failure {
    Failure::new(
        Exit::Input,
        format!("line {line} of {} is not a list of token ids", path.display()),
    )
}

/// The logits of every position of `prompt`, and the `count` likeliest tokens after it, one after another.
fn answer(
    worker: &mut Worker,
    prompt: &[TokenId],
    count: usize,
) -> Result<(Vec<f32>, Vec<TokenId>), Failure> {
    let mut cache = worker.model().new_cache(worker.all_layers());
    let vocab = worker.model().graph().vocab;
    let logits = worker.run(&mut cache, prompt, Keep::All)?;
    let mut greedy = Vec::with_capacity(count);
    let mut last = logits[logits.len() - vocab..].to_vec();
    while greedy.len() < count {
        let token = likeliest(&last);
        greedy.push(token);
        if greedy.len() < count {
            last = worker.run(&mut cache, &[token], Keep::Last)?;
        }
    }
    Ok((logits, greedy))
}

/// The first of the largest logits.
fn likeliest(logits: &[f32]) -> TokenId {
    let larger = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
    TokenId((0..logits.len()).fold(0, larger) as u32)
}

/// The file that grows, and the hash of the logits in it.
struct Sink<'a> {
    path: &'a Path,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
}

impl<'a> Sink<'a> {
    fn create(path: &'a Path) -> Result<Self, Failure> {
        let file = File::create(path).map_err(|e| Failure::writing(path, &e))?;
        Ok(Self {
            path,
            file: BufWriter::new(file),
            hasher: blake3::Hasher::new(),
        })
    }

    fn put(&mut self, logits: &[f32], n: usize, vocab: usize, greedy: &[TokenId]) -> Result<(), Failure> {
        let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.hasher.update(&bytes);
        let counts = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let ids: Vec<u32> = std::iter::once(greedy.len() as u32)
            .chain(greedy.iter().map(|t| t.0))
            .collect();
        let parts = [counts(&[n as u32, vocab as u32]), bytes, counts(&ids)];
        parts
            .iter()
            .try_for_each(|part| self.file.write_all(part))
            .map_err(|e| Failure::writing(self.path, &e))
    }

    fn finish(mut self) -> Result<blake3::Hash, Failure> {
        self.file.flush().map_err(|e| Failure::writing(self.path, &e))?;
        Ok(self.hasher.finalize())
    }
}
