//! One measurement of one file, in the order `heph bench` takes: load, first token, prefill, decode, verify.

use std::time::Instant;

use crate::arguments::Arguments;
use crate::peer::{CHUNK, Logits, Peer, Setup};

/// What is measured.
pub struct Plan {
    model: String,
    setup: Setup,
    prompt: usize,
    generated: usize,
    depth: usize,
    repetitions: usize,
    verify: Vec<usize>,
}

impl Plan {
    /// Reads the plan from the command line.
    ///
    /// # Errors
    /// A value is missing or no number.
    pub fn read(arguments: &Arguments) -> Result<Self, String> {
        let verify = arguments.numbers("verify")?;
        let prompt = arguments.number("prompt", 512)?;
        let generated = arguments.number("gen", 32)?;
        let depth = arguments.number("depth", 0)?;
        let longest_step = verify.iter().copied().max().unwrap_or(1);
        let positions = prompt.max(depth + generated + longest_step + 1);
        let setup = Setup {
            threads: arguments.number("threads", 2)?,
            context: positions.next_multiple_of(256),
            repack: arguments.number("repack", 1)? != 0,
            flash: arguments.number("flash", 1)? != 0,
        };
        let model = arguments.text("model")?.to_owned();
        let repetitions = arguments.number("repetitions", 3)?;
        Ok(Self {
            model,
            setup,
            prompt,
            generated,
            depth,
            repetitions,
            verify,
        })
    }
}

/// Measures and returns the JSON line. Warm-up passes are not counted.
///
/// # Errors
/// The model cannot be loaded or run.
pub fn bench(plan: &Plan) -> Result<String, String> {
    let start = Instant::now();
    let mut peer = Peer::load(&plan.model, plan.setup)?;
    let load = start.elapsed().as_secs_f64();
    peer.feed(&[1], 0, Logits::Last)?;
    peer.likeliest();
    let first_token = start.elapsed().as_secs_f64();

    let prefill = rates_of_prefill(&mut peer, plan)?;
    peer.roll_back(0);
    fill(&mut peer, 0, plan.depth)?;
    let decode = rates_of_decode(&mut peer, plan)?;
    let verify = plan
        .verify
        .iter()
        .map(|k| {
            Ok(format!(
                "\"{k}\":{}",
                list(&seconds_of_verify(&mut peer, plan, *k)?)
            ))
        })
        .collect::<Result<Vec<_>, String>>()?;
    Ok(format!(
        "{{\"prefill_tok_s\":{},\"decode_tok_s\":{},\"verify_s\":{{{}}},\"load_s\":{load:.4},\"first_token_s\":{first_token:.4},\"peak_rss_bytes\":{}}}",
        list(&prefill),
        list(&decode),
        verify.join(","),
        peak_rss_bytes()
    ))
}

fn rates_of_prefill(peer: &mut Peer, plan: &Plan) -> Result<Vec<f64>, String> {
    if plan.prompt == 0 {
        return Ok(Vec::new());
    }
    peer.roll_back(0);
    fill(peer, 0, plan.prompt.min(64))?;
    (0..plan.repetitions)
        .map(|_| {
            peer.roll_back(0);
            let start = Instant::now();
            fill(peer, 0, plan.prompt)?;
            Ok(plan.prompt as f64 / start.elapsed().as_secs_f64())
        })
        .collect()
}

fn rates_of_decode(peer: &mut Peer, plan: &Plan) -> Result<Vec<f64>, String> {
    if plan.generated == 0 {
        return Ok(Vec::new());
    }
    generate(peer, plan.depth, 1)?;
    (0..plan.repetitions)
        .map(|_| {
            let start = Instant::now();
            generate(peer, plan.depth, plan.generated)?;
            Ok(plan.generated as f64 / start.elapsed().as_secs_f64())
        })
        .collect()
}

fn seconds_of_verify(peer: &mut Peer, plan: &Plan, k: usize) -> Result<Vec<f64>, String> {
    let tokens = words(plan.depth, k, peer.vocabulary());
    let mut seconds = Vec::with_capacity(plan.repetitions);
    for repetition in 0..=plan.repetitions {
        peer.roll_back(plan.depth);
        let start = Instant::now();
        peer.feed(&tokens, plan.depth, Logits::All)?;
        // The first pass of a new batch size builds its graph: it is the warm-up.
        if repetition > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(seconds)
}

/// Greedy generation of `count` tokens after `depth` positions.
fn generate(peer: &mut Peer, depth: usize, count: usize) -> Result<(), String> {
    peer.roll_back(depth);
    let mut token = 1;
    for position in depth..depth + count {
        peer.feed(&[token], position, Logits::Last)?;
        token = peer.likeliest();
    }
    Ok(())
}

/// Runs `count` tokens from `position` on in chunks.
fn fill(peer: &mut Peer, position: usize, count: usize) -> Result<(), String> {
    let tokens = words(position, count, peer.vocabulary());
    for (i, chunk) in tokens.chunks(CHUNK).enumerate() {
        peer.feed(chunk, position + i * CHUNK, Logits::Last)?;
    }
    Ok(())
}

/// `count` scattered token ids, always the same at the same position.
fn words(position: usize, count: usize, vocabulary: usize) -> Vec<i32> {
    (position..position + count)
        .map(|i| (3 + (i * 7919 + 17) % (vocabulary - 3)) as i32)
        .collect()
}

fn list(values: &[f64]) -> String {
    let words: Vec<String> = values.iter().map(|v| format!("{v:.6}")).collect();
    format!("[{}]", words.join(","))
}

/// The most memory this process ever held, from the kernel's own count.
fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or("0 kB");
    line.trim()
        .trim_end_matches("kB")
        .trim()
        .parse::<u64>()
        .unwrap_or(0)
        * 1024
}
