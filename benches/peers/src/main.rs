//! Measures llama.cpp exactly as `heph bench` measures HEPH, and the memory of the machine under both.
//!
//! Called by `run.py` beside this workspace, once per measurement, so every figure comes from a fresh process.
//! Prints one line of JSON. It judges nothing: ratios and tables are made from the raw lines.

mod arguments;
mod bandwidth;
mod bench;
mod peer;

use std::process::ExitCode;

use arguments::Arguments;

const USAGE: &str = "usage:
  peer-bench bench --model FILE [--threads 2] [--prompt 512] [--gen 32] [--depth 0] [--repetitions 3]
                   [--verify 1,4,8,16] [--repack 0|1] [--flash 0|1]
  peer-bench bandwidth [--threads 2]
  peer-bench quantize --model FILE --out FILE --type q4_k_m|q8_0 [--threads 2]";

fn main() -> ExitCode {
    match run() {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("peer-bench: {why}\n{USAGE}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String, String> {
    let mut words = std::env::args().skip(1);
    let task = words.next().ok_or("what shall be done?")?;
    let arguments = Arguments::read(words)?;
    match task.as_str() {
        "bench" => bench::bench(&bench::Plan::read(&arguments)?),
        "bandwidth" => Ok(bandwidth::probe(arguments.number("threads", 2)?)),
        "quantize" => {
            let threads = arguments.number("threads", 2)?;
            peer::quantize(
                arguments.text("model")?,
                arguments.text("out")?,
                arguments.text("type")?,
                threads,
            )?;
            Ok("{}".to_owned())
        }
        other => Err(format!("no task is called {other}")),
    }
}
