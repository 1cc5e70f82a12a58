//! Measures a model laid out over two processes: this one and a serving one, by a ticket, over whatever is between them.
//!
//! `benches/network.py` starts both ends in the network lab and writes what they say into a report. Prompts are drawn
//! token ids, so that random weights will do.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that tells what it measured"
)]

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use heph_engine::model::{LoadOptions, Model};
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_net::endpoint::{EndpointOptions, Goodbye, Protocol};
use heph_net::session::Codecs;
use heph_plan::DraftSource;
use heph_plan::draft::SourceStart;
use heph_runtime::bundled;
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{
    Answer, AnswerOptions, Desk, GuessSource, Message, Pace, Plain, Prompt, Speculation,
};
use heph_runtime::discretion::between_own;
use heph_runtime::draft::ModelDrafter;
use heph_runtime::guard::{self, Lends, Outlet};
use heph_runtime::line::{Line, LineLimits, LineModel, Placement};
use heph_runtime::network::{Admits, Caller, Network, NetworkOptions};
use heph_runtime::node::{Lent, Node, NodeCaps};
use heph_runtime::peer::Peer;
use heph_runtime::seat::{Bell, Host, Seat, SeatError};
use heph_runtime::serve::{ServeRules, serve};
use heph_runtime::settings::{Keys, Settings};
use heph_runtime::store::{Found, ModelFiles};
use heph_types::{
    ModelHash, NodeId, Order, Reply, SamplingOptions, SessionId, StageSpec, TokenId, WireCodec,
};

/// How to call it.
const USAGE: &str =
    "span serve MODEL HOME ADDRESS             lends the model at this socket until standard input ends
span measure MODEL HOME TICKET JOBS...    JOBS: decode prefill serial bytes overhead guess, each with :TOKENS; prefill and
                                          serial with :TOKENS:PIECE, the tokens that travel together
span measure MODEL HOME TICKET,TICKET direct:TOKENS
span guarded MODEL HOME TICKET JOBS...    the same with the socket in a guard's process
span follow MODEL HOME TICKET TOKENS       decodes over a `heph node`, and tells with each token what the way is taken to carry
span lend MODEL HOME ADDRESS              as serve, with the socket in a guard's process
span echo ADDRESS                         sends datagrams back until it is killed
span ping ADDRESS TIMES BYTES             what the way itself takes there and back

MODEL is a GGUF file, story or draft. Prints the ticket, or one JSON object for each job.";

/// The name of the model between the two; what it is they know from their command lines.
const HASH: ModelHash = ModelHash([5; 32]);

/// Positions of a conversation: 2,048 of a prompt and some of an answer.
const CONTEXT: usize = 2304;

/// Tokens of a prompt before decoding is timed.
const PROMPT: usize = 32;

/// How long meeting and leaving may take.
const DEADLINE: Duration = Duration::from_secs(8);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["serve", model, home, address] => lend(model, home, address, Socket::Here),
        ["lend", model, home, address] => {
            guard::begin_with();
            lend(model, home, address, Socket::Lending)
        }
        ["measure", model, home, ticket, ref jobs @ ..] => measure(model, home, ticket, jobs, Socket::Here),
        ["guarded", model, home, ticket, ref jobs @ ..] => {
            guard::begin_with();
            measure(model, home, ticket, jobs, Socket::Guarded)
        }
        ["follow", model, home, ticket, tokens] => follow(model, home, ticket, tokens),
        #[cfg(target_os = "linux")]
        ["egress-guard", ..] => guarding(),
        ["echo", address] => echo(address),
        ["ping", address, times, bytes] => ping(address, times, bytes),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

type Done<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn lent(name: &str) -> Done<Lent> {
    let found = match name {
        "story" => Found::Bundled(bundled::STORY),
        "draft" => Found::Bundled(bundled::STORY_DRAFT),
        path => Found::Path(ModelFiles::Gguf(vec![PathBuf::from(path)])),
    };
    let source = heph_runtime::open::open(&found)?;
    let trained = source.config().context;
    let options = LoadOptions {
        context: Some(CONTEXT.min(trained)),
        sessions: 2,
        ..LoadOptions::default()
    };
    let pool = Pool::new(1);
    let model = Model::load(Arc::new(source), &options, &pool, &mut |_| {})?;
    Ok(Lent::new(Arc::new(model), Arc::new(pool), Isa::best()))
}

/// Whose the socket is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Socket {
    Here,
    Guarded,
    /// A guard's, that is told of lending.
    Lending,
}

/// Is the guard of another one of these.
#[cfg(target_os = "linux")]
fn guarding() -> Done {
    let lends = std::env::args().any(|word| word == "--lends");
    let lends = lends.then(Lends::default);
    Ok(guard::process::run(&Settings::read()?, false, lends)?)
}

fn network(home: &str, address: &str, socket: Socket) -> Done<Network> {
    let endpoint = EndpointOptions {
        bind: address.parse()?,
        ..EndpointOptions::loopback()
    };
    Ok(Network::start(NetworkOptions {
        home: PathBuf::from(home),
        keys: Some(Keys::File),
        name: "span".to_owned(),
        endpoint,
        guard: match socket {
            Socket::Here => None,
            Socket::Guarded => Some(Outlet::at(Path::new(home), &[])),
            Socket::Lending => Some(Outlet::lending(Path::new(home), &[], Lends::default())),
        },
    })?)
}

fn lend(model: &str, home: &str, address: &str, socket: Socket) -> Done {
    let lent = lent(model)?;
    let network = network(home, address, socket)?;
    let row_bytes = row_bytes(&LineModel::of(HASH, &lent.model));
    let node = Node::new(network.node(), NodeCaps::default()).with(HASH, lent);
    let serving = serve(&network, Arc::new(node), ServeRules::default());
    network.serve(Protocol::Members, Admits::Known, move |caller| {
        answer_rows(caller, row_bytes)
    });
    println!("{}", network.invite(Duration::from_secs(3600))?);
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    serving.stop();
    network.close(DEADLINE);
    Ok(())
}

/// Longest datagram of a ping.
const PING_MAX: usize = 1200;

fn echo(address: &str) -> Done {
    let socket = UdpSocket::bind(address)?;
    let mut bytes = [0; PING_MAX];
    println!("{}", socket.local_addr()?);
    loop {
        let (count, from) = socket.recv_from(&mut bytes)?;
        socket.send_to(&bytes[..count], from)?;
    }
}

/// One datagram at a time, each side waiting for it: what any program pays for the way.
fn ping(address: &str, times: &str, bytes: &str) -> Done {
    let (times, bytes): (usize, usize) = (times.parse()?, bytes.parse()?);
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    let mut heard = [0; PING_MAX];
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let began = Instant::now();
        socket.send(&heard[..bytes.min(PING_MAX)])?;
        socket.recv(&mut heard)?;
        took.push(began.elapsed().as_secs_f64());
    }
    took.sort_by(f64::total_cmp);
    let middle = took.get(times / 2).copied().ok_or(USAGE)?;
    told("ping", times, &[("middle_us", middle * 1e6)]);
    Ok(())
}

/// Bytes of the frame that brings a token's row without loss, and of the one that brings back the next token.
fn row_bytes(model: &LineModel) -> usize {
    4 * model.width + ROW_HEAD
}

/// Before a row: length, kind, session, epoch, position, passes, codec and shape.
const ROW_HEAD: usize = 20;

/// A chosen token in its frame.
const CHOICE_BYTES: usize = 12;

/// Answers rows by choices and computes nothing: what the library alone takes for a token's bytes.
async fn answer_rows(caller: Caller, row_bytes: usize) {
    let mut row = vec![0; row_bytes];
    while let Ok(mut stream) = caller.connection.accept().await {
        while stream.read(&mut row).await.is_ok() && stream.write(&[0; CHOICE_BYTES]).await.is_ok() {}
    }
}

/// Both ends of what is measured.
struct Ends {
    here: Arc<Node>,
    there: Peer,
    /// A second one over there.
    beyond: Option<Peer>,
    model: LineModel,
    network: Network,
    socket: Socket,
}

fn measure(model: &str, home: &str, ticket: &str, jobs: &[&str], socket: Socket) -> Done {
    let ends = ends(model, home, ticket, socket, |_| Ok(HASH))?;
    let measured = jobs.iter().try_for_each(|job| {
        let (name, numbers) = job.split_once(':').ok_or(USAGE)?;
        let (tokens, piece) = match numbers.split_once(':') {
            Some((tokens, piece)) => (tokens, piece.parse()?),
            None => (numbers, LineLimits::default().chunk),
        };
        run(&ends, name, tokens.parse()?, piece)
    });
    ends.network.close(DEADLINE);
    measured
}

/// Meets those who gave the tickets; `hash` says by which name the first one knows the model.
fn ends(
    model: &str,
    home: &str,
    ticket: &str,
    socket: Socket,
    hash: impl Fn(&Peer) -> Done<ModelHash>,
) -> Done<Ends> {
    let lent = lent(model)?;
    let network = network(home, "0.0.0.0:0", socket)?;
    let met = ticket.split(',').map(|ticket| {
        let known = network.block_on(network.join(&ticket.parse()?, DEADLINE))?;
        Ok(Peer::new(&network, known.node).with_clearance(between_own(known.node)?))
    });
    let mut met = met.collect::<Done<Vec<Peer>>>()?.into_iter();
    let there = met.next().ok_or(USAGE)?;
    let hash = hash(&there)?;
    let model = LineModel::of(hash, &lent.model);
    let here = Node::new(network.node(), NodeCaps::default()).with(hash, lent);
    Ok(Ends {
        here: Arc::new(here),
        there,
        beyond: met.next(),
        model,
        network,
        socket,
    })
}

/// Tells with each of so many tokens, whose rows travel there and back as suits the way, what that is taken to carry by then.
fn follow(model: &str, home: &str, ticket: &str, tokens: &str) -> Done {
    let lends = |peer: &Peer| {
        let profile = peer.probe(DEADLINE)?.profile;
        let held = profile.and_then(|profile| profile.holds.first().map(|held| held.model));
        held.ok_or_else(|| "it lends no model".into())
    };
    let ends = ends(model, home, ticket, Socket::Here, lends)?;
    let mut line = ends.line(&ends.between(), None)?;
    for _ in 0..tokens.parse()? {
        go_on(&mut line, 1)?;
        let (up, down) = ends.there.goodput().unwrap_or((f64::NAN, f64::NAN));
        let at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        told("follow", 1, &[("at", at), ("up", up), ("down", down)]);
    }
    drop(line);
    ends.network.close(DEADLINE);
    Ok(())
}

fn run(ends: &Ends, job: &str, tokens: usize, piece: usize) -> Done {
    let (one, two) = (ends.whole(), ends.halves());
    match job {
        "decode" => {
            // In turns, so that a slower moment meets all.
            for _ in 0..3 {
                let alone = decode(&mut ends.line(&one, EXACT)?, tokens)?;
                let (_, half_alone) = ends.decode_watched(&ends.halves_here(), tokens)?;
                let (split, half) = ends.decode_watched(&two, tokens)?;
                told(
                    job,
                    tokens,
                    &[
                        ("one_s", alone),
                        ("two_s", split),
                        ("half_alone_s", half_alone),
                        ("half_s", half),
                        ("rtt_s", ends.round_trip()),
                    ],
                );
            }
        }
        "prefill" => {
            let (alone, beside) = (
                prefill(&mut ends.cut(&one, EXACT, piece)?, tokens, Pieces::AllAtOnce)?,
                ends.beside_each_other(tokens, piece)?,
            );
            let over =
                |stages: &[_]| prefill(&mut ends.cut(stages, EXACT, piece)?, tokens, Pieces::AllAtOnce);
            // The first rows over a connection wait for it to find out what the way carries, in each direction.
            let (first, split) = (over(&two)?, over(&two)?);
            let (around_first, around) = (over(&ends.around())?, over(&ends.around())?);
            told(
                job,
                tokens,
                &[
                    ("piece", piece as f64),
                    ("one_s", alone),
                    ("beside_s", beside),
                    ("first_s", first),
                    ("two_s", split),
                    ("around_first_s", around_first),
                    ("around_s", around),
                    ("rtt_s", ends.round_trip()),
                ],
            );
        }
        "serial" => {
            let (pipelined, serial) = (
                prefill(&mut ends.cut(&two, EXACT, piece)?, tokens, Pieces::AllAtOnce)?,
                prefill(
                    &mut ends.cut(&two, EXACT, piece)?,
                    tokens,
                    Pieces::OneByOne(piece),
                )?,
            );
            told(
                job,
                tokens,
                &[
                    ("piece", piece as f64),
                    ("pipelined_s", pipelined),
                    ("serial_s", serial),
                    ("rtt_s", ends.round_trip()),
                ],
            );
        }
        "bytes" => {
            let mut line = ends.line(&ends.between(), HALF)?;
            prefill(&mut line, PROMPT, Pieces::AllAtOnce)?;
            let before = line.traffic();
            go_on(&mut line, tokens)?;
            let after = line.traffic();
            let each = |bytes: u64| bytes as f64 / tokens as f64;
            told(
                job,
                tokens,
                &[
                    ("up", each(after.up - before.up)),
                    ("down", each(after.down - before.down)),
                    ("width", ends.model.width as f64),
                ],
            );
        }
        "overhead" => {
            for _ in 0..3 {
                // A guard lets no rows pass that nobody cleared.
                let bare = match ends.socket {
                    Socket::Here => ends.bare_rows(tokens)?,
                    Socket::Guarded | Socket::Lending => 0.0,
                };
                let alone = decode(&mut ends.line(&ends.halves_here(), EXACT)?, tokens)?;
                let split = decode(&mut ends.line(&two, EXACT)?, tokens)?;
                let each = (split - alone) / tokens as f64;
                told(
                    job,
                    tokens,
                    &[
                        ("here_s", alone),
                        ("two_s", split),
                        ("each_us", each * 1e6),
                        ("bare_us", bare * 1e6),
                        ("rtt_s", ends.round_trip()),
                    ],
                );
            }
        }
        "direct" => {
            let stages = ends.halves_there()?;
            for _ in 0..3 {
                let through = decode(&mut ends.line(&stages, EXACT)?, tokens)?;
                let mut line = ends.line(&stages, EXACT)?.forwarding();
                let direct = decode(&mut line, tokens)?;
                if !line.forwards(0) {
                    return Err(format!("the two nodes did not meet: {:?}", line.parted()).into());
                }
                told(
                    job,
                    tokens,
                    &[
                        ("through_s", through),
                        ("direct_s", direct),
                        ("rtt_s", ends.round_trip()),
                    ],
                );
            }
        }
        "guess" => {
            for seed in 1..=3 {
                let told_of = |pace| ends.told_story(seed, pace, tokens);
                let (steps, stream) = (told_of(Pace::Steps)?, told_of(Pace::Stream)?);
                let guessed = told_of(guessing()?)?;
                if guessed.tokens != steps.tokens || stream.tokens != steps.tokens {
                    return Err("the same question had another answer".into());
                }
                let count = guessed.tokens.len() as f64;
                let (pieces, sent) = (guessed.guesses.pieces as f64, guessed.guesses.sent as f64);
                told(
                    job,
                    steps.tokens.len(),
                    &[
                        ("steps_tok_s", steps.decode_tok_s()),
                        ("stream_tok_s", stream.decode_tok_s()),
                        ("guess_tok_s", guessed.decode_tok_s()),
                        ("pieces_per_token", pieces / count),
                        ("up_per_drafted", guessed.traffic.up as f64 / sent),
                        ("down_per_round", guessed.traffic.down as f64 / pieces),
                        ("right", guessed.guesses.right as f64),
                        ("judged", guessed.guesses.judged as f64),
                        ("rtt_s", ends.round_trip()),
                    ],
                );
            }
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// The small model here guesses, and the line confirms; nothing is known beforehand of what a round takes.
fn guessing() -> Done<Pace> {
    let lent = lent("draft")?;
    let model = LineModel::of(HASH, &lent.model);
    let node = Node::new(NodeId([0; 32]), NodeCaps::default()).with(HASH, lent);
    let line = Line::whole(model, Arc::new(node), LineLimits::default());
    let source = GuessSource {
        kind: DraftSource::Model,
        drafter: Box::new(ModelDrafter::new(line, Cancel::new())),
        start: SourceStart {
            acceptance: 0.75,
            seconds_per_token: 1e-4,
            length_max: 16,
            branches_max: 0,
        },
    };
    let speculation = Speculation::new(vec![source], Plain::Steps, None);
    Ok(Pace::Adapt(Box::new(speculation)))
}

/// Rows without loss.
const EXACT: Codecs = Codecs {
    up: WireCodec::F32,
    down: WireCodec::F32,
};

/// Rows of half the bytes.
const HALF: Codecs = Codecs {
    up: WireCodec::Bf16,
    down: WireCodec::Bf16,
};

impl Ends {
    /// Rows travel in these formats, or as suits the way.
    fn line(&self, stages: &[(NodeId, usize, usize)], codecs: impl Into<Option<Codecs>>) -> Done<Line> {
        self.cut(stages, codecs, LineLimits::default().chunk)
    }

    /// A line whose prompts travel in pieces of so many tokens.
    fn cut(
        &self,
        stages: &[(NodeId, usize, usize)],
        codecs: impl Into<Option<Codecs>>,
        piece: usize,
    ) -> Done<Line> {
        self.over(Arc::clone(&self.here) as Arc<dyn Host>, stages, codecs, piece)
    }

    /// The same with this machine as this host.
    fn over(
        &self,
        here: Arc<dyn Host>,
        stages: &[(NodeId, usize, usize)],
        codecs: impl Into<Option<Codecs>>,
        piece: usize,
    ) -> Done<Line> {
        let codecs = codecs.into();
        let others = [Some(&self.there), self.beyond.as_ref()].into_iter().flatten();
        let carried = |peer: &Peer| codecs.map_or_else(|| peer.clone(), |codecs| peer.with_codecs(codecs));
        let others = others.map(|peer| Arc::new(carried(peer)) as Arc<dyn Host>);
        let hosts: Vec<Arc<dyn Host>> = std::iter::once(here).chain(others).collect();
        let placed = |&(node, start, end): &(NodeId, usize, usize)| Placement {
            node,
            layers: self.model.range(start, end),
        };
        let stages: Vec<Placement> = stages.iter().map(placed).collect();
        let limits = LineLimits {
            // Nobody is lost here, and one core may take long over a piece.
            patience: Duration::from_secs(60),
            patience_least: Duration::from_secs(60),
            chunk: piece,
            ..LineLimits::default()
        };
        let mut line = Line::new(self.model, hosts, &stages, limits)?;
        line.begin(&SamplingOptions::greedy());
        Ok(line)
    }

    /// A story of so many tokens by the bundled target, all of it over there.
    fn told_story(&self, seed: u64, pace: Pace, tokens: usize) -> Done<Answer> {
        let line = self.line(&[(self.there.node(), 0, self.model.layers)], EXACT)?;
        let words = heph_runtime::open::words(&Found::Bundled(bundled::STORY))?;
        let mut desk = Desk::over(line, pace, Arc::new(words), Cancel::new());
        let options = AnswerOptions {
            sampling: SamplingOptions {
                seed,
                ..SamplingOptions::default()
            },
            max_tokens: Some(tokens),
            stops: Vec::new(),
        };
        let question = [Message::new("user", "Tell me a story about a little fox.")];
        Ok(desk.answer(Prompt::Chat(&question), &options, &mut |_| {})?)
    }

    fn whole(&self) -> Vec<(NodeId, usize, usize)> {
        vec![(self.here.id(), 0, self.model.layers)]
    }

    /// The head counts as much as some layers; two more go to the first half.
    fn halves(&self) -> Vec<(NodeId, usize, usize)> {
        let (layers, half) = (self.model.layers, self.half());
        vec![(self.here.id(), 0, half), (self.there.node(), half, layers)]
    }

    /// Seconds for a prompt through all of the model here while the other host takes one through all of it, too: cores of one
    /// machine share what two machines do not.
    fn beside_each_other(&self, tokens: usize, piece: usize) -> Done<f64> {
        let mut here = self.cut(&self.whole(), EXACT, piece)?;
        let mut there = self.cut(&[(self.there.node(), 0, self.model.layers)], EXACT, piece)?;
        std::thread::scope(|scope| {
            let other = scope
                .spawn(|| prefill(&mut there, tokens, Pieces::AllAtOnce).map_err(|error| error.to_string()));
            // The other host's time has the way in it.
            let own = prefill(&mut here, tokens, Pieces::AllAtOnce);
            other.join().map_err(|_| "the other host failed")??;
            own
        })
    }

    /// Seconds for so many tokens over these stages, and those of them in which the first one computed here: a core that
    /// waits for another one between two tokens is slower than one that never sleeps.
    fn decode_watched(&self, stages: &[(NodeId, usize, usize)], tokens: usize) -> Done<(f64, f64)> {
        let here = Arc::new(Watched {
            node: Arc::clone(&self.here),
            worked: Arc::default(),
        });
        let worked = Arc::clone(&here.worked);
        let mut line = self.over(here, stages, EXACT, LineLimits::default().chunk)?;
        let took = decode(&mut line, tokens)?;
        let worked = worked.lock().map_err(|_| "the stage failed")?;
        let last = &worked[worked.len().saturating_sub(tokens)..];
        Ok((took, last.iter().sum::<Duration>().as_secs_f64()))
    }

    fn halves_here(&self) -> Vec<(NodeId, usize, usize)> {
        let (layers, half) = (self.model.layers, self.half());
        vec![(self.here.id(), 0, half), (self.here.id(), half, layers)]
    }

    /// Both halves at other machines.
    fn halves_there(&self) -> Done<Vec<(NodeId, usize, usize)>> {
        let (layers, half) = (self.model.layers, self.half());
        let beyond = self.beyond.as_ref().ok_or(USAGE)?.node();
        Ok(vec![(self.there.node(), 0, half), (beyond, half, layers)])
    }

    /// Half of the work there, between the first and the last layers here: whatever this machine waits for, it has something
    /// else to do meanwhile. The last layer counts for nothing, since it is computed for one row.
    fn around(&self) -> Vec<(NodeId, usize, usize)> {
        let (here, there, layers) = (self.here.id(), self.there.node(), self.model.layers);
        let between = (layers - 1) / 2;
        let first = (layers - between - 1) / 2;
        vec![
            (here, 0, first),
            (there, first, first + between),
            (here, first + between, layers),
        ]
    }

    /// Rows in and rows out.
    fn between(&self) -> Vec<(NodeId, usize, usize)> {
        let layers = self.model.layers;
        let (here, there) = (self.here.id(), self.there.node());
        vec![(here, 0, 1), (there, 1, layers - 1), (here, layers - 1, layers)]
    }

    /// Seconds that a token's bytes take over there and back on a stream of the same library, where nobody computes and no
    /// thread is waited for: the middle of so many.
    fn bare_rows(&self, times: usize) -> Done<f64> {
        let (there, network) = (self.there.node(), self.network.clone());
        let (mut row, mut choice) = (vec![0; row_bytes(&self.model)], [0; CHOICE_BYTES]);
        let asked = self.network.spawn(async move {
            let connection = network.reach(there, Protocol::Members, DEADLINE).await;
            let connection = connection.map_err(|error| error.to_string())?;
            let mut stream = connection.open().await.map_err(|error| error.to_string())?;
            let mut took = Vec::with_capacity(times);
            for _ in 0..times {
                let began = Instant::now();
                stream.write(&row).await.map_err(|error| error.to_string())?;
                stream
                    .read(&mut choice)
                    .await
                    .map_err(|error| error.to_string())?;
                took.push(began.elapsed().as_secs_f64());
                row[0] = choice[0];
            }
            connection.close(Goodbye::Done);
            took.sort_by(f64::total_cmp);
            Ok::<f64, String>(took[times / 2])
        });
        Ok(self.network.block_on(asked)??)
    }

    fn half(&self) -> usize {
        self.model.layers.div_ceil(2)
    }

    fn round_trip(&self) -> f64 {
        self.there
            .round_trip()
            .map_or(f64::NAN, |time| time.as_secs_f64())
    }
}

/// This machine, whose first stage tells how long it works over each piece.
struct Watched {
    node: Arc<Node>,
    worked: Arc<Mutex<Vec<Duration>>>,
}

struct WatchedSeat {
    seat: Box<dyn Seat>,
    worked: Arc<Mutex<Vec<Duration>>>,
}

impl Host for Watched {
    fn node(&self) -> NodeId {
        self.node.id()
    }

    fn open(&self, session: SessionId, spec: &StageSpec, bell: &Bell) -> Result<Box<dyn Seat>, SeatError> {
        let (seat, worked) = (self.node.open(session, spec, bell)?, Arc::clone(&self.worked));
        Ok(match spec.layers.start() {
            0 => Box::new(WatchedSeat { seat, worked }),
            _ => seat,
        })
    }
}

impl Seat for WatchedSeat {
    fn node(&self) -> NodeId {
        self.seat.node()
    }

    fn submit(&mut self, order: Order) -> Result<(), SeatError> {
        self.seat.submit(order)
    }

    fn poll(&mut self) -> Result<Option<Reply>, SeatError> {
        let began = Instant::now();
        let reply = self.seat.poll()?;
        if reply.is_some()
            && let Ok(mut worked) = self.worked.lock()
        {
            worked.push(began.elapsed());
        }
        Ok(reply)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pieces {
    /// Each follows the last without waiting.
    AllAtOnce,
    /// Each, of so many tokens, waits until the last has come through.
    OneByOne(usize),
}

/// Seconds until the token after a prompt of so many.
fn prefill(line: &mut Line, tokens: usize, pieces: Pieces) -> Done<f64> {
    let vocab = line.model().vocab;
    let prompt: Vec<TokenId> = (0..tokens)
        .map(|at| TokenId(((at * 7919 + 13) % vocab) as u32))
        .collect();
    // The seats are opened before the clock starts.
    line.feed(0, &prompt[..1], 1);
    line.collect(&Cancel::new())?;
    let began = Instant::now();
    let step = match pieces {
        Pieces::AllAtOnce => tokens - 1,
        Pieces::OneByOne(piece) => piece,
    };
    for from in (1..tokens).step_by(step.max(1)) {
        let to = tokens.min(from + step);
        line.feed(from, &prompt[from..to], 1);
        line.collect(&Cancel::new())?;
    }
    Ok(began.elapsed().as_secs_f64())
}

/// Seconds for so many tokens, one after another, after a prompt.
fn decode(line: &mut Line, tokens: usize) -> Done<f64> {
    prefill(line, PROMPT, Pieces::AllAtOnce)?;
    go_on(line, 4)?;
    let began = Instant::now();
    go_on(line, tokens)?;
    Ok(began.elapsed().as_secs_f64())
}

fn go_on(line: &mut Line, tokens: usize) -> Done {
    for _ in 0..tokens {
        // Which token goes in is no matter.
        let at = line.tokens().len();
        line.feed(at, &[TokenId(100)], 1);
        line.collect(&Cancel::new())?;
    }
    Ok(())
}

fn told(job: &str, tokens: usize, numbers: &[(&str, f64)]) {
    let numbers: Vec<String> = numbers
        .iter()
        .map(|(name, value)| match value.is_finite() {
            true => format!("\"{name}\": {value:.6}"),
            // Of what did not happen nothing is told, such as bytes a round where nothing was guessed.
            false => format!("\"{name}\": null"),
        })
        .collect();
    println!(
        "{{\"job\": \"{job}\", \"tokens\": {tokens}, {}}}",
        numbers.join(", ")
    );
}
