//! Desks and nodes as peers: real sockets on this machine's loopback, real stages, and the same bits as at home.

mod answers;
mod busy;
mod hops;
mod losses;
mod receipts;
mod service;
mod waits;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use heph_engine::model::{LoadOptions, Model};
use heph_engine::source::Source;
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_net::endpoint::EndpointOptions;
use heph_net::trust::Peer as Known;
use heph_runtime::bundled;
use heph_runtime::cancel::Cancel;
use heph_runtime::desk::{Answer, AnswerOptions, Desk, DeskError, Guess, Pace, Prompt};
use heph_runtime::discretion::between_own;
use heph_runtime::draft::{EchoDrafter, Either, ModelDrafter};
use heph_runtime::line::{Line, LineLimits, LineModel, Placement};
use heph_runtime::network::{Network, NetworkOptions};
use heph_runtime::node::{Lent, Node, NodeCaps};
use heph_runtime::peer::Peer;
use heph_runtime::seat::Host;
use heph_runtime::serve::{ServeRules, Serving, serve};
use heph_runtime::settings::Keys;
use heph_runtime::words::Words;
use heph_types::{ModelHash, NodeId, Role, SamplingOptions};

const HASH: ModelHash = ModelHash([7; 32]);

const PROMPT: &str = "Once upon a time there was a little fox who lived in the wood with her mother. One day";

/// What a healthy loopback never needs.
const PATIENCE: Duration = Duration::from_secs(5);

/// The small draft of the bundled pair.
struct Tiny {
    model: Arc<Model>,
    words: Arc<Words>,
}

fn tiny() -> &'static Tiny {
    static TINY: OnceLock<Tiny> = OnceLock::new();
    TINY.get_or_init(|| {
        let source =
            Source::from_gguf(vec![Arc::new(bundled::STORY_DRAFT.bytes.to_vec())]).expect("a sound file");
        let source = Arc::new(source);
        let options = LoadOptions {
            context: Some(160),
            sessions: 64,
            ..LoadOptions::default()
        };
        let model =
            Model::load(Arc::clone(&source), &options, &Pool::serial(), &mut |_| {}).expect("it loads");
        let words = Words::of(&source.vocabulary().expect("it has one")).expect("a sound vocabulary");
        Tiny {
            model: Arc::new(model),
            words: Arc::new(words),
        }
    })
}

fn node_of(id: NodeId) -> Node {
    node_with(id, NodeCaps::default())
}

fn node_with(id: NodeId, caps: NodeCaps) -> Node {
    let lent = Lent::new(Arc::clone(&tiny().model), Arc::new(Pool::serial()), Isa::best());
    Node::new(id, caps).with(HASH, lent)
}

/// A machine of its own: an identity, a book, a socket.
struct Machine {
    network: Network,
    _home: tempfile::TempDir,
}

impl Machine {
    fn new(name: &str) -> Machine {
        let home = tempfile::tempdir().expect("a folder");
        let options = NetworkOptions {
            home: home.path().to_owned(),
            keys: Some(Keys::File),
            name: name.to_owned(),
            endpoint: EndpointOptions::loopback(),
            guard: None,
        };
        let network = Network::start(options).expect("a socket");
        Machine { network, _home: home }
    }

    /// A machine that lends the model.
    fn lending(name: &str, rules: ServeRules) -> (Machine, Serving) {
        Machine::lending_with(name, NodeCaps::default(), rules)
    }

    fn lending_with(name: &str, caps: NodeCaps, rules: ServeRules) -> (Machine, Serving) {
        let machine = Machine::new(name);
        let node = Arc::new(node_with(machine.network.node(), caps));
        let serving = serve(&machine.network, node, rules);
        (machine, serving)
    }

    fn node(&self) -> NodeId {
        self.network.node()
    }

    /// Enters another machine in the book, as pairing would.
    fn knows(&self, other: &Machine) {
        let known = Known {
            node: other.node(),
            role: Role::Own,
            name: other.network.name().to_owned(),
            since: 0,
            address: other.network.address(),
        };
        self.network.remember(known).expect("a book");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.network.close(Duration::from_secs(1));
    }
}

/// A desk's machine and nodes that know it.
struct World {
    desk: Machine,
    nodes: Vec<(Machine, Serving)>,
}

/// The peer with leave to be shown everything, as a machine of one's own.
fn cleared(peer: Peer) -> Peer {
    let clearance = between_own(peer.node()).expect("own machines see everything");
    peer.with_clearance(clearance)
}

impl World {
    fn new(nodes: usize) -> World {
        World::with(nodes, ServeRules::default())
    }

    fn with(nodes: usize, rules: ServeRules) -> World {
        let desk = Machine::new("desk");
        let lend = |at| Machine::lending(&format!("node {at}"), rules.clone());
        let nodes: Vec<_> = (0..nodes).map(lend).collect();
        for (node, _) in &nodes {
            node.knows(&desk);
            desk.knows(node);
        }
        World { desk, nodes }
    }

    fn peer(&self, at: usize) -> Peer {
        cleared(Peer::new(&self.desk.network, self.nodes[at].0.node()))
    }

    /// All nodes, and the desk's own machine behind them.
    fn hosts(&self) -> Vec<Arc<dyn Host>> {
        let peers = (0..self.nodes.len()).map(|at| Arc::new(self.peer(at)) as Arc<dyn Host>);
        peers
            .chain([Arc::new(node_of(self.desk.node())) as Arc<dyn Host>])
            .collect()
    }

    /// Layers by node; the desk's own machine is one behind the last.
    fn line(&self, stages: &[(usize, usize, usize)]) -> Line {
        self.line_over(self.hosts(), stages)
    }

    fn line_over(&self, hosts: Vec<Arc<dyn Host>>, stages: &[(usize, usize, usize)]) -> Line {
        let model = model();
        let place = |&(at, start, end): &(usize, usize, usize)| Placement {
            node: hosts[at].node(),
            layers: model.range(start, end),
        };
        let stages: Vec<_> = stages.iter().map(place).collect();
        let limits = LineLimits {
            chunk: 5,
            ..LineLimits::default()
        };
        Line::new(model, hosts, &stages, limits).expect("the stages are the model")
    }
}

fn model() -> LineModel {
    LineModel::of(HASH, &tiny().model)
}

fn desk(line: Line, pace: Pace) -> Desk {
    Desk::over(line, pace, Arc::clone(&tiny().words), Cancel::new())
}

fn options(sampled: bool) -> AnswerOptions {
    AnswerOptions {
        sampling: SamplingOptions {
            temperature: if sampled { 0.8 } else { 0.0 },
            seed: 5,
            repeat_penalty: if sampled { 1.1 } else { 1.0 },
            ..SamplingOptions::default()
        },
        max_tokens: Some(24),
        stops: Vec::new(),
    }
}

fn ask(desk: &mut Desk, prompt: &str, options: &AnswerOptions) -> Result<Answer, DeskError> {
    desk.answer(Prompt::Text(prompt), options, &mut |_| {})
}

/// The answer of a desk that asks nobody.
fn at_home(options: &AnswerOptions) -> Answer {
    let node = Arc::new(node_of(NodeId([1; 32])));
    let line = Line::whole(model(), node, LineLimits::default());
    ask(&mut desk(line, Pace::Steps), PROMPT, options).expect("an answer")
}

/// Waits until something holds, or says that it never did.
fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
