//! HEPH's tools for a program that started us: a message a line, in on standard input, out on standard output.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::server::{self, Incoming, Progress};
use super::{Code, Line, MESSAGE_BYTES_MAX, failed, line};
use crate::connection::ServeError;
use crate::house::{Door, House, Options};

/// Requests that are worked on at one time; the next line is read when one of them is done.
const AT_ONCE: usize = 16;

/// How long what is under way goes on when nothing more is asked.
const UNDER_WAY_MAX: Duration = Duration::from_secs(300);

/// How often it is looked meanwhile whether anybody reads.
const LOOKED_EVERY: Duration = Duration::from_secs(2);

/// How long the last answers may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Answers that wait to be written.
const WAITING: usize = 64;

/// HEPH's tools, ready to be spoken to.
pub struct McpServer {
    door: Door,
    runtime: tokio::runtime::Runtime,
}

impl McpServer {
    /// Loads the model.
    ///
    /// # Errors
    /// When it does not load.
    pub fn open(options: Options) -> Result<Self, ServeError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("heph-mcp")
            .enable_all()
            .build()?;
        Ok(Self {
            door: House::open(options)?,
            runtime,
        })
    }

    /// Answers until standard input ends.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn run(self) -> std::io::Result<()> {
        self.run_over(tokio::io::stdin(), tokio::io::stdout())
    }

    /// Answers what comes by `input`, until it ends.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn run_over(
        self,
        input: impl AsyncRead + Unpin,
        output: impl AsyncWrite + Unpin + Send + 'static,
    ) -> std::io::Result<()> {
        let Self { door, runtime } = self;
        let spoken = runtime.block_on(speak(Arc::clone(&door), input, output));
        // A thread that waits for standard input is not waited for.
        runtime.shutdown_timeout(Duration::from_millis(100));
        // Out here, where what is let go of last may wait for its own threads.
        drop(door);
        spoken
    }
}

/// Comes back when nobody reads what is written. A pipe says so when something is written: what is asked here needs no answer.
async fn gone(out: &mpsc::Sender<Value>) {
    let ping = json!({ "jsonrpc": "2.0", "id": "heph", "method": "ping" });
    loop {
        let _ = tokio::time::timeout(LOOKED_EVERY, out.closed()).await;
        if out.send(ping.clone()).await.is_err() {
            return;
        }
    }
}

/// Answers what `input` asks until it ends, and what is under way then.
async fn speak(
    door: Door,
    input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin + Send + 'static,
) -> std::io::Result<()> {
    let (out, mut answers) = mpsc::channel::<Value>(WAITING);
    let writer = tokio::spawn(async move {
        while let Some(answer) = answers.recv().await {
            if output.write_all(format!("{answer}\n").as_bytes()).await.is_err()
                || output.flush().await.is_err()
            {
                return;
            }
        }
    });
    let mut input = BufReader::new(input);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut working = JoinSet::new();
    let mut by_id: HashMap<String, AbortHandle> = HashMap::new();
    while let Some(line) = line(&mut input, MESSAGE_BYTES_MAX).await? {
        let message = match line {
            Line::TooLong => Err(failed(
                &Value::Null,
                Code::Message,
                "the message is longer than 4 MiB",
            )),
            Line::Whole(bytes) if bytes.trim_ascii().is_empty() => continue,
            Line::Whole(bytes) => server::read(&bytes),
        };
        match message {
            Err(answer) => {
                // Nobody reads any more.
                if out.send(answer).await.is_err() {
                    break;
                }
            }
            Ok(Incoming::Answer) => {}
            Ok(Incoming::Notice { method, params }) => {
                if method == "notifications/cancelled"
                    && let Some(work) = by_id.remove(&params["requestId"].to_string())
                {
                    work.abort();
                }
            }
            Ok(Incoming::Request { id, method, params }) => {
                by_id.retain(|_, work| !work.is_finished());
                let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                    break;
                };
                let (door, out, key) = (door.clone(), out.clone(), id.to_string());
                let progress = Progress::of(&params, &out);
                let work = working.spawn(async move {
                    let answer = server::answer(&door, &id, &method, params, progress).await;
                    let _ = out.send(answer).await;
                    drop(place);
                });
                by_id.insert(key, work);
                while working.try_join_next().is_some() {}
            }
        }
    }
    // Its input is over, and what is under way may still be read: for so long, and only while somebody takes it.
    let ended = async {
        tokio::select! {
            () = async { while working.join_next().await.is_some() {} } => {}
            () = gone(&out) => {}
        }
    };
    let _ = tokio::time::timeout(UNDER_WAY_MAX, ended).await;
    working.shutdown().await;
    drop(out);
    let _ = tokio::time::timeout(LAST_WORDS, writer).await;
    Ok(())
}
