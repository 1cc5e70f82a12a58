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
use heph_runtime::certify;
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
            for rows in worker.encode_rows(&[prompt])? {
                sink.counts(&[prompt.len(), rows.width])?;
                sink.numbers(&rows.rows)?;
                sink.ids(&[])?;
            }
            continue;
        }
        answer(&mut worker, prompt, arguments, &mut sink)?;
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

/// Writes the logits of every position of `prompt`, piece by piece, so that no more than a piece of them is ever held, and
/// the likeliest tokens after it, one after another.
fn answer(
    worker: &mut Worker,
    prompt: &[TokenId],
    arguments: &Arguments,
    sink: &mut Sink<'_>,
) -> Result<(), Failure> {
    let mut cache = worker.model().new_cache(worker.all_layers());
    let vocab = worker.model().graph().vocab;
    sink.counts(&[prompt.len(), vocab])?;
    let mut last = Vec::new();
    for piece in prompt.chunks(arguments.engine.chunk.get()) {
        let logits = worker.run(&mut cache, piece, Keep::All)?;
        sink.numbers(&logits)?;
        last = logits[logits.len() - vocab..].to_vec();
    }
    let mut greedy = Vec::with_capacity(arguments.greedy);
    while greedy.len() < arguments.greedy {
        let token = likeliest(&last);
        greedy.push(token);
        if greedy.len() < arguments.greedy {
            last = worker.run(&mut cache, &[token], Keep::Last)?;
        }
    }
    sink.ids(&greedy)
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

    fn counts(&mut self, counts: &[usize]) -> Result<(), Failure> {
        let bytes = counts.iter().flat_map(|count| (*count as u32).to_le_bytes());
        self.write(&bytes.collect::<Vec<u8>>())
    }

    /// Logits, of which the hash is.
    fn numbers(&mut self, numbers: &[f32]) -> Result<(), Failure> {
        let bytes = certify::bytes(numbers);
        self.hasher.update(&bytes);
        self.write(&bytes)
    }

    fn ids(&mut self, ids: &[TokenId]) -> Result<(), Failure> {
        self.counts(&[ids.len()])?;
        let bytes = ids.iter().flat_map(|id| id.0.to_le_bytes());
        self.write(&bytes.collect::<Vec<u8>>())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file
            .write_all(bytes)
            .map_err(|e| Failure::writing(self.path, &e))
    }

    fn finish(mut self) -> Result<blake3::Hash, Failure> {
        self.file.flush().map_err(|e| Failure::writing(self.path, &e))?;
        Ok(self.hasher.finalize())
    }
}
