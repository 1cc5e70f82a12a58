//! What a stage at a peer costs beside the way there and beside the work: microseconds a token and stage, on loopback.
//!
//! `cargo bench -p heph-runtime --bench session [-- ROUNDS]`. Three rounds are timed in turns, one token each, with rows
//! of the same bytes: an echo on a bare stream (the link), a stage of no layers at a peer (the link, the session, the
//! codec, the threads), and the same stage at hand (its own work). What is left of the second without the other two is
//! the runtime's overhead. One line of JSON for each repetition.

#![expect(clippy::print_stdout, reason = "a measurement prints")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use heph_engine::model::{LoadOptions, Model};
use heph_engine::source::Source;
use heph_kernels::isa::Isa;
use heph_kernels::pool::Pool;
use heph_net::codec;
use heph_net::endpoint::{EndpointOptions, Protocol, Stream};
use heph_net::session::Codecs;
use heph_net::trust::Peer as Known;
use heph_runtime::bundled;
use heph_runtime::discretion::between_own;
use heph_runtime::line::LineModel;
use heph_runtime::network::{Admits, Network, NetworkOptions};
use heph_runtime::node::{Lent, Node, NodeCaps};
use heph_runtime::peer::Peer;
use heph_runtime::seat::{Bell, Host, Seat};
use heph_runtime::serve::{ServeRules, serve};
use heph_runtime::settings::Keys;
use heph_types::{
    Forward, Hidden, ModelHash, NodeId, Order, Position, Reply, Role, SessionId, StageInput, StageSpec,
    WireCodec,
};

const HASH: ModelHash = ModelHash([7; 32]);

/// Repetitions; each has a line of its own.
const REPETITIONS: usize = 5;

/// Numbers of a row whose codec is timed beside: the width of models with 7 to 8 billion parameters.
const WIDE: usize = 4_096;

/// What a healthy loopback never needs.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() {
    let rounds = std::env::args()
        .filter_map(|word| word.parse().ok())
        .next()
        .unwrap_or(1_000);
    let homes = [0, 1].map(|_| tempfile::tempdir().expect("a folder"));
    let [desk, node] = [0, 1].map(|at| machine(homes[at].path()));
    meet(&desk, &node);
    meet(&node, &desk);
    let (lent, model) = lent();
    serve(
        &node,
        Arc::new(lent_by(node.node(), &lent)),
        ServeRules::default(),
    );
    node.serve(Protocol::Shards, Admits::Known, move |caller| async move {
        while let Ok(mut stream) = caller.connection.accept().await {
            let mut bytes = vec![0; row_bytes(&model)];
            while stream.read(&mut bytes).await.is_ok() && stream.write(&bytes).await.is_ok() {}
        }
    });
    let bell = Bell::new();
    let codecs = Codecs {
        up: WireCodec::F32,
        down: WireCodec::F32,
    };
    let leave = between_own(node.node()).expect("own machines see everything");
    let peer = Peer::new(&desk, node.node())
        .with_codecs(codecs)
        .with_clearance(leave);
    let mut far = peer.open(SessionId(1), &spec(&model), &bell).expect("a seat");
    let mut near = lent_by(NodeId([1; 32]), &lent)
        .open(SessionId(2), &spec(&model), &bell)
        .expect("a seat");
    let mut link = Link::open(&desk, &node, row_bytes(&model));
    for repetition in 0..REPETITIONS {
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..rounds {
            let at = (round % (model.context - 1)) as u32;
            times[0].push(link.echo());
            times[1].push(token(far.as_mut(), &bell, at, &model));
            times[2].push(token(near.as_mut(), &bell, at, &model));
        }
        let [link, far, near] = times.map(median_us);
        let [packed, bf16] = [WireCodec::Packed, WireCodec::Bf16].map(codec_us);
        println!(
            "{{\"repetition\":{repetition},\"rounds\":{rounds},\"width\":{},\"link_us\":{link:.1},\"peer_us\":{far:.1},\
             \"here_us\":{near:.1},\"overhead_us\":{:.1},\"packed_4096_us\":{packed:.1},\"bf16_4096_us\":{bf16:.1}}}",
            model.width,
            far - link - near
        );
    }
    drop((far, link));
    desk.close(PATIENCE);
    node.close(PATIENCE);
}

fn machine(home: &std::path::Path) -> Network {
    let options = NetworkOptions {
        home: home.to_owned(),
        keys: Some(Keys::File),
        name: "bench".to_owned(),
        endpoint: EndpointOptions::loopback(),
        guard: None,
    };
    Network::start(options).expect("a socket")
}

fn meet(one: &Network, other: &Network) {
    let known = Known {
        node: other.node(),
        role: Role::Own,
        name: "bench".to_owned(),
        since: 0,
        address: other.address(),
    };
    one.remember(known).expect("a book");
}

/// The small draft of the bundled pair.
fn lent() -> (Lent, LineModel) {
    let source =
        Source::from_gguf(vec![Arc::new(bundled::STORY_DRAFT.bytes.to_vec())]).expect("a sound file");
    let options = LoadOptions {
        sessions: 4,
        ..LoadOptions::default()
    };
    let model = Model::load(Arc::new(source), &options, &Pool::serial(), &mut |_| {}).expect("it loads");
    let model = Arc::new(model);
    let line = LineModel::of(HASH, &model);
    (Lent::new(model, Arc::new(Pool::serial()), Isa::best()), line)
}

fn lent_by(id: NodeId, lent: &Lent) -> Node {
    Node::new(id, NodeCaps::default()).with(HASH, lent.clone())
}

/// A stage between two others that has nothing to do.
fn spec(model: &LineModel) -> StageSpec {
    StageSpec {
        model: HASH,
        layers: model.range(1, 1),
        context: model.context as u32,
        kv_format: model.kv_format,
        choose: None,
    }
}

/// Bytes of the frame of one row in single precision, nearly.
fn row_bytes(model: &LineModel) -> usize {
    4 * model.width + 16
}

/// One token through a seat and back.
fn token(seat: &mut dyn Seat, bell: &Bell, at: u32, model: &LineModel) -> Duration {
    let began = Instant::now();
    let hidden = Hidden {
        width: model.width,
        rows: vec![0.25; model.width],
    };
    let order = Forward {
        first: Position(at),
        input: StageInput::Rows {
            hidden,
            tokens: Vec::new(),
        },
        answers: 1,
        pass: None,
    };
    seat.submit(Order::Forward(order)).expect("room");
    loop {
        let seen = bell.rings();
        match seat.poll().expect("a living node") {
            Some(Reply::Rows { .. }) => return began.elapsed(),
            Some(Reply::Choices { .. }) => panic!("rows were asked for"),
            None => bell.wait(seen, Instant::now() + PATIENCE),
        }
    }
}

/// A bare stream to an echo.
struct Link {
    network: Network,
    stream: Stream,
    bytes: Vec<u8>,
}

impl Link {
    fn open(desk: &Network, node: &Network, bytes: usize) -> Link {
        let stream = desk.block_on(async {
            let connection = desk
                .reach(node.node(), Protocol::Shards, PATIENCE)
                .await
                .expect("it answers");
            connection.open().await.expect("a stream")
        });
        Link {
            network: desk.clone(),
            stream,
            bytes: vec![7; bytes],
        }
    }

    /// There and back, waited for by a task of the network: the way alone, without a thread of the caller's.
    fn echo(&mut self) -> Duration {
        let Link {
            network,
            stream,
            bytes,
        } = self;
        network.block_on(async {
            let began = Instant::now();
            stream.write(bytes).await.expect("it listens");
            stream.read(bytes).await.expect("it answers");
            began.elapsed()
        })
    }
}

/// What one row of [`WIDE`] numbers costs to pack and unpack, there and back again.
fn codec_us(codec: WireCodec) -> f64 {
    let number = |at: usize| ((at * 7_919 % 1_000) as f32 - 500.0) / 333.0;
    let hidden = Hidden {
        width: WIDE,
        rows: (0..WIDE).map(number).collect(),
    };
    let there_and_back = || {
        let began = Instant::now();
        for _ in 0..2 {
            let packed = codec::pack(&hidden, codec).expect("it fits");
            std::hint::black_box(codec::unpack(&packed).expect("it is whole"));
        }
        began.elapsed()
    };
    median_us((0..200).map(|_| there_and_back()).collect())
}

fn median_us(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}
