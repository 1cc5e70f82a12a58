//! Parts of the bundled draft model, brought over this machine's loopback.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use heph_engine::model::{LoadError, LoadOptions, Model};
use heph_engine::source::Source;
use heph_kernels::pool::Pool;
use heph_net::endpoint::EndpointOptions;
use heph_net::transfer::{GROUP_BYTES, PROBE_DEADLINE};
use heph_net::trust::Peer;
use heph_types::Role;

use super::*;
use crate::bundled::STORY;
use crate::network::NetworkOptions;
use crate::open;
use crate::settings::Keys;

struct Machine {
    network: Network,
    shelf: Arc<Shelf>,
    home: tempfile::TempDir,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.network.close(Duration::from_secs(3));
    }
}

fn machine(name: &str) -> Machine {
    let home = tempfile::tempdir().unwrap();
    let network = Network::start(NetworkOptions {
        home: home.path().to_owned(),
        keys: Some(Keys::File),
        name: name.to_owned(),
        endpoint: EndpointOptions::loopback(),
        guard: None,
    });
    let (network, shelf) = (network.unwrap(), Arc::new(Shelf::new(home.path())));
    shelf.serve(&network, None);
    Machine { network, shelf, home }
}

fn know_each_other(a: &Machine, b: &Machine) {
    for (one, other) in [(a, b), (b, a)] {
        let peer = Peer {
            node: other.network.node(),
            role: Role::Own,
            name: "other".to_owned(),
            since: 1,
            address: other.network.address(),
        };
        one.network.remember(peer).unwrap();
    }
}

impl Machine {
    fn bring(
        &self,
        from: &[&Machine],
        model: ModelHash,
        layers: LayerRange,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Shard, ShardError> {
        let peers: Vec<NodeId> = from.iter().map(|machine| machine.network.node()).collect();
        let bringing = self
            .shelf
            .bring(&self.network, &peers, model, layers, u64::MAX, progress);
        self.network.block_on(bringing)
    }
}

fn range(start: usize, end: usize) -> LayerRange {
    LayerRange::new(start, end, usize::from(u16::MAX)).unwrap()
}

fn bundled() -> Found {
    Found::Bundled(STORY)
}

fn whole() -> Arc<Source> {
    Arc::new(open::open(&bundled()).unwrap())
}

/// Bytes of the tensors of a part.
fn tensors(layers: LayerRange) -> u64 {
    let places = heph_engine::model::places(&whole(), layers).unwrap();
    places.into_iter().map(|(_, range)| range.end - range.start).sum()
}

fn load(source: Arc<Source>, layers: Option<LayerRange>) -> Result<Model, LoadError> {
    let options = LoadOptions {
        context: Some(64),
        layers,
        ..LoadOptions::default()
    };
    Model::load(source, &options, &Pool::serial(), &mut |_| {})
}

#[test]
fn only_what_a_node_serves_travels_and_the_rest_is_a_hole() {
    let (desk, node) = (machine("desk"), machine("node"));
    know_each_other(&desk, &node);
    let model = desk.shelf.put(&bundled()).unwrap();
    assert_eq!(model.0, *blake3::hash(STORY.bytes).as_bytes());
    let layers = whole().config().layers;
    let middle = range(1, layers - 1);
    let mut steps = Vec::new();
    let part = node
        .bring(&[&desk], model, middle, &mut |step| steps.push(step))
        .unwrap();
    assert_eq!((part.layers, part.model), (middle, model));

    let travelled = steps.last().unwrap();
    assert_eq!(travelled.done_bytes, travelled.total_bytes);
    let header = heph_engine::gguf::Gguf::header_bytes(STORY.bytes).unwrap() as u64;
    // Twice the header at most, and a group too much at each end of what lies together.
    let enough = tensors(middle) + 2 * header.max(GROUP_BYTES) + 8 * GROUP_BYTES;
    assert!(travelled.done_bytes >= tensors(middle) && travelled.done_bytes <= enough);
    let file = fs::read(&part.files[0]).unwrap();
    assert_eq!(file.len(), STORY.bytes.len());
    let there = file
        .chunks(GROUP_BYTES as usize)
        .filter(|group| group.iter().any(|byte| *byte != 0))
        .count() as u64;
    assert!(
        there * GROUP_BYTES <= enough + GROUP_BYTES,
        "{there} groups on the disk"
    );

    // The part loads from a file with holes; the whole, and what is missing, do not run.
    let source = Arc::new(open::open(&part.found()).unwrap());
    let loaded = load(Arc::clone(&source), Some(middle)).unwrap();
    assert!(loaded.holds(middle) && loaded.holds(range(2, 2)));
    assert!(!loaded.holds(range(0, 1)) && !loaded.holds(range(0, 0)) && !loaded.holds(range(layers, layers)));
    let beyond = load(source, Some(range(0, layers + 1)));
    assert!(matches!(beyond, Err(LoadError::Layers { .. })));
    assert_eq!(node.shelf.shard(model, range(2, 3)).unwrap(), Some(part.clone()));
    assert_eq!(node.shelf.shard(model, range(0, 2)).unwrap(), None);

    // More of it later joins what is there, and only the rest travels.
    let more = node.bring(&[&desk], model, range(0, 1), &mut |_| {}).unwrap();
    assert_eq!(more.layers, range(0, layers - 1));
    assert_eq!(node.shelf.shards().unwrap(), [more]);
    node.shelf.remove(model).unwrap();
    assert!(node.shelf.shards().unwrap().is_empty());
}

#[test]
fn a_fetch_that_was_killed_goes_on_where_it_was() {
    let (desk, node) = (machine("desk"), machine("node"));
    know_each_other(&desk, &node);
    let model = desk.shelf.put(&bundled()).unwrap();
    let all = range(0, whole().config().layers);
    // The fetching machine dies with half of it.
    let done = AtomicU64::new(0);
    let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        node.bring(&[&desk], model, all, &mut |step| {
            done.store(step.done_bytes, Ordering::Relaxed);
            assert!(step.done_bytes < step.total_bytes / 2, "killed here");
        })
    }));
    assert!(killed.is_err());
    assert_eq!(node.shelf.shard(model, all).unwrap(), None, "half a part is none");
    let mut first = None;
    let part = node.bring(&[&desk], model, all, &mut |step| {
        first.get_or_insert(step.done_bytes);
    });
    assert!(
        first.unwrap() >= done.into_inner(),
        "what had arrived travels again"
    );
    assert_eq!(fs::read(&part.unwrap().files[0]).unwrap(), STORY.bytes);
}

#[test]
fn a_model_in_several_files_is_known_by_the_list_of_them() {
    let (desk, node) = (machine("desk"), machine("node"));
    know_each_other(&desk, &node);
    // Two files that are no parts of a model, to see that both travel under their own names.
    let folder = desk.home.path().join("many");
    fs::create_dir_all(&folder).unwrap();
    let paths = [
        folder.join("m-00001-of-00002.gguf"),
        folder.join("m-00002-of-00002.gguf"),
    ];
    for path in &paths {
        fs::write(path, STORY.bytes).unwrap();
    }
    let found = Found::Path(ModelFiles::Gguf(paths.to_vec()));
    let model = desk.shelf.put(&found).unwrap();
    assert_eq!(
        desk.shelf.put(&found).unwrap(),
        model,
        "from outlines that were kept"
    );
    let broken = node.bring(&[&desk], model, range(0, 1), &mut |_| {});
    assert!(matches!(broken, Err(ShardError::Source(_))), "{broken:?}");
    let there = node.shelf.folder(model);
    assert!(there.join("00001.gguf").exists() && there.join("00002.gguf").exists());
}

#[test]
fn what_cannot_be_brought_is_said_plainly() {
    let (desk, node, stranger) = (machine("desk"), machine("node"), machine("stranger"));
    know_each_other(&desk, &node);
    let model = desk.shelf.put(&bundled()).unwrap();
    let layers = whole().config().layers;
    let unknown = node.bring(&[&desk], ModelHash([9; 32]), range(0, 1), &mut |_| {});
    assert!(
        matches!(unknown, Err(ShardError::Transfer(TransferError::NotThere))),
        "{unknown:?}"
    );
    let beyond = node.bring(&[&desk], model, range(0, layers + 1), &mut |_| {});
    assert!(matches!(beyond, Err(ShardError::Layers { .. })), "{beyond:?}");
    let nobody = node.bring(&[], model, range(0, 1), &mut |_| {});
    assert!(matches!(nobody, Err(ShardError::NoSource)));
    let peers = [desk.network.node()];
    let little = node.network.block_on(async {
        let layers = range(0, layers);
        node.shelf
            .bring(&node.network, &peers, model, layers, 300_000, &mut |_| {})
            .await
    });
    assert!(
        matches!(little, Err(ShardError::Transfer(TransferError::NoRoom { .. }))),
        "{little:?}"
    );
    // The desk does not know this one.
    stranger
        .network
        .heard_of(desk.network.node(), desk.network.address());
    let refused = stranger.bring(&[&desk], model, range(0, 1), &mut |_| {});
    assert!(refused.is_err());
    desk.shelf.withdraw(model);
    let gone = node.bring(&[&desk], model, range(0, 1), &mut |_| {});
    assert!(
        matches!(gone, Err(ShardError::Transfer(TransferError::NotThere))),
        "{gone:?}"
    );
}

#[test]
fn a_way_is_measured_and_an_owners_rate_is_kept_to() {
    let (desk, node) = (machine("desk"), machine("node"));
    know_each_other(&desk, &node);
    let measure_for = |waited| {
        let measuring = crate::ways::measure(&desk.network, node.network.node(), waited);
        desk.network.block_on(measuring).unwrap()
    };
    let measure = || measure_for(PROBE_DEADLINE);
    // A machine that is busy at the wrong moment measures slowly once, not five times.
    let is_fast = || (0..5).any(|_| measure().down > 1e6);
    assert!(is_fast(), "loopback carries more");
    assert!(desk.network.ways().to(node.network.node()).is_some());
    // 32 KiB at 200 kB/s take 160 ms whatever the machine does besides; a busy one only makes it slower.
    let rate = std::num::NonZeroU64::new(200_000);
    node.network.endpoint().throttle().limit(rate);
    let capped = measure();
    assert!(capped.down < 400_000.0, "{capped:?}");
    assert!(
        capped.up > capped.down,
        "only what the node sends is limited: {capped:?}"
    );
    // A first look takes 30 ms of these at least, and a longer one 1.3 s; nobody waits for that.
    node.network
        .endpoint()
        .throttle()
        .limit(std::num::NonZeroU64::new(400_000));
    let waited = Duration::from_millis(300);
    let is_short = || {
        let began = Instant::now();
        measure_for(waited).down < 1e7 && began.elapsed() < 3 * waited
    };
    assert!((0..5).any(|_| is_short()), "the longer look is waited for");
    node.network.endpoint().throttle().limit(None);
    assert!(measure().down > 1e6);
}

/// A desk that offers the bundled model, and a node of the same person that takes so many bytes of layers and writes down
/// what it lends.
fn desk_and_taker(role: Role, bytes_max: u64) -> (Machine, Machine, Arc<Mutex<Vec<Shard>>>) {
    let (desk, node) = (machine("desk"), machine("node"));
    know_each_other(&desk, &node);
    let stranger = Peer {
        node: desk.network.node(),
        role,
        name: "desk".to_owned(),
        since: 1,
        address: desk.network.address(),
    };
    node.network.remember(stranger).unwrap();
    let lent = Arc::new(Mutex::new(Vec::new()));
    let lends = Arc::clone(&lent);
    let intake = Intake::new(bytes_max, move |part| {
        lends.lock().unwrap().push(part);
        Ok(())
    });
    node.shelf.serve(&node.network, Some(intake));
    (desk, node, lent)
}

/// What came of handing over layers.
struct Handed {
    outcome: Result<(), ShardError>,
    /// Bytes that the desk was told of first and last.
    first: u64,
    last: u64,
    /// Bytes of the file that left.
    sent: u64,
}

/// Has the node take layers of the bundled model.
fn hand(desk: &Machine, node: &Machine, layers: LayerRange) -> Handed {
    let model = desk.shelf.put(&bundled()).unwrap();
    let wanted = Wanted { model, layers };
    let (mut first, mut last) = (None, 0);
    let mut show = |step: Progress| {
        if step.total_bytes > 0 {
            first.get_or_insert(step.done_bytes);
            last = step.done_bytes;
        }
    };
    let sent = Arc::default();
    let handing = desk
        .shelf
        .hand(&desk.network, node.network.node(), wanted, &mut show, &sent);
    let outcome = desk.network.block_on(handing);
    Handed {
        outcome,
        first: first.unwrap_or(0),
        last,
        sent: sent.load(Ordering::Relaxed),
    }
}

fn refusal(handed: Handed) -> String {
    match handed.outcome {
        Err(ShardError::Transfer(TransferError::Refused(why))) => why,
        Err(ShardError::Transfer(TransferError::NoRoomThere(why))) => format!("no room: {why}"),
        other => panic!("it was not refused: {other:?}"),
    }
}

#[test]
fn an_own_machine_takes_the_layers_that_it_is_handed_and_lends_them() {
    let (desk, node, lent) = desk_and_taker(Role::Own, u64::MAX);
    let (model, one, two) = (
        ModelHash(*blake3::hash(STORY.bytes).as_bytes()),
        range(1, 2),
        range(1, 3),
    );
    let whole = STORY.bytes.len() as u64;
    let handed = hand(&desk, &node, one);
    handed.outcome.unwrap();
    let first_part = handed.last;
    assert!(first_part >= tensors(one) && first_part < whole, "{first_part}");
    assert!(
        handed.sent >= tensors(one) && handed.sent < whole,
        "{} bytes left",
        handed.sent
    );
    let part = node.shelf.shard(model, one).unwrap().expect("it lies there");
    assert_eq!(*lent.lock().unwrap(), [part]);
    assert!(node.shelf.brought_bytes() >= tensors(one));
    // More of it later: what lies there does not travel again, and the whole part is lent.
    let handed = hand(&desk, &node, two);
    handed.outcome.unwrap();
    assert!(
        handed.first >= tensors(one) / 2,
        "{} bytes of it were there already",
        handed.first
    );
    assert!(
        handed.sent > 0 && handed.sent < first_part,
        "{} bytes left",
        handed.sent
    );
    assert_eq!(lent.lock().unwrap().last().unwrap().layers, two);
    // And what is there already is only lent.
    let handed = hand(&desk, &node, one);
    handed.outcome.unwrap();
    assert_eq!((handed.last, handed.sent), (0, 0));
}

#[test]
fn layers_are_taken_from_an_own_machine_alone() {
    for role in [Role::Cloud, Role::Miner, Role::Edge] {
        let (desk, node, lent) = desk_and_taker(role, u64::MAX);
        let why = refusal(hand(&desk, &node, range(0, 1)));
        assert!(why.contains("owner's machines"), "{why}");
        assert_eq!(node.shelf.brought_bytes(), 0, "something of it travelled");
        assert!(lent.lock().unwrap().is_empty());
    }
}

#[test]
fn no_more_layers_are_taken_than_the_owner_allows() {
    let (desk, node, lent) = desk_and_taker(Role::Own, tensors(range(0, 2)) / 2);
    let why = refusal(hand(&desk, &node, range(0, 2)));
    assert!(why.starts_with("no room") && why.contains("allowed"), "{why}");
    assert!(node.shelf.brought_bytes() < tensors(range(0, 2)) / 2, "{why}");
    assert!(lent.lock().unwrap().is_empty());
    // What was taken before counts.
    let (desk, node, _) = desk_and_taker(Role::Own, STORY.bytes.len() as u64);
    hand(&desk, &node, range(0, 2)).outcome.unwrap();
    let all = range(0, whole().config().layers);
    let why = refusal(hand(&desk, &node, all));
    assert!(why.starts_with("no room") && why.contains("allowed"), "{why}");
}

#[test]
fn who_takes_no_layers_says_so() {
    let (desk, node) = (machine("desk"), machine("node"));
    know_each_other(&desk, &node);
    let why = refusal(hand(&desk, &node, range(0, 1)));
    assert!(why.contains("takes none"), "{why}");
}

#[test]
fn layers_that_are_not_the_models_are_not_taken() {
    let (desk, node, lent) = desk_and_taker(Role::Own, u64::MAX);
    let other = Arc::new(Offer::of_bytes(vec![7; 3 * GROUP_BYTES as usize]).unwrap());
    let wanted = Wanted {
        model: ModelHash(*blake3::hash(STORY.bytes).as_bytes()),
        layers: range(0, 1),
    };
    let handed = desk.network.block_on(async {
        let reached = desk
            .network
            .reach(node.network.node(), Protocol::Shards, CONNECT_DEADLINE)
            .await;
        // It says that these bytes are the model's.
        let find = move |_| Some(Arc::clone(&other));
        transfer::hand(&reached.unwrap(), wanted, find, &mut |_| {}, &Arc::default()).await
    });
    assert!(
        matches!(&handed, Err(TransferError::Refused(why)) if why.contains("not the file's")),
        "{handed:?}"
    );
    assert!(lent.lock().unwrap().is_empty());
}
