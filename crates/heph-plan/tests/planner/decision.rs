//! A decision as others read it: every mode has its sentence, its JSON keeps its form, its record is made again.

use crate::scenes::{crowd, private_scene};
use heph_plan::{CodecProfile, Constraint, Decision, DirectForwarding, Mode, Record, Request, plan};
use heph_types::{Exactness, ModelHash, NodeState, Policy, Role, WireCodec};

/// The decision of one scene as it was when this form was fixed. A change of form is a change for everybody who reads it.
const STORED: &str = include_str!("decision.json");

fn stored_scene() -> Record {
    let (request, cluster) = private_scene();
    Record::new(request, cluster).expect("the scene has a plan")
}

#[test]
fn a_decision_as_json_keeps_its_form() {
    let record = stored_scene();
    let text = serde_json::to_string_pretty(&record.decision).unwrap();
    let stored: Decision = serde_json::from_str(STORED).unwrap_or_else(|error| {
        panic!("a decision of before is not read: {error}; the decision now:\n{text}")
    });
    assert_eq!(
        stored, record.decision,
        "the scene is decided otherwise; the decision now:\n{text}"
    );
    assert_eq!(text.trim(), STORED.trim(), "the form changed");
}

#[test]
fn a_hash_is_read_as_digits_and_as_the_list_that_it_once_was() {
    let kept = |text: &str| serde_json::from_str::<ModelHash>(text).ok();
    let hash = ModelHash([7; 32]);
    assert_eq!(kept(&serde_json::to_string(&hash).unwrap()), Some(hash));
    assert_eq!(kept(&format!("{:?}", hash.0)), Some(hash));
    for wrong in ["[7, 7]", "[700]", "\"0707\"", "7", "null"] {
        assert_eq!(kept(wrong), None, "{wrong}");
    }
}

#[test]
fn a_record_written_and_read_decides_the_same() {
    for seed in 0..20 {
        let (request, cluster) = crowd(seed, 8, 24, 0.5);
        let Ok(record) = Record::new(request, cluster) else {
            continue;
        };
        let text = serde_json::to_string(&record).unwrap();
        let read: Record = serde_json::from_str(&text).unwrap();
        assert_eq!(read.replay().as_ref(), Ok(&record.decision));
    }
}

#[test]
fn every_mode_is_told_once_with_a_sentence() {
    for seed in 0..20 {
        let (request, cluster) = crowd(seed, 8, 24, 0.5);
        let Ok(decision) = plan(&request, &cluster) else {
            continue;
        };
        let mut told: Vec<Mode> = decision.alternatives.iter().map(|a| a.mode).collect();
        told.push(decision.plan.mode);
        told.sort_unstable();
        assert_eq!(told, Mode::ALL);
        let sentences = decision.alternatives.iter().map(|a| a.why_not.as_str());
        for sentence in sentences.chain([decision.reason.sentence.as_str()]) {
            assert!(sentence.ends_with('.') && sentence.len() > 10, "{sentence}");
        }
    }
}

#[test]
fn a_codec_measured_smaller_than_its_nominal_size_is_taken() {
    let (mut request, cluster) = private_scene();
    let measured = CodecProfile {
        bytes_per_number: 3.0,
        seconds_per_number: 1e-9,
        ..CodecProfile::nominal(WireCodec::Packed)
    };
    request.codecs = vec![CodecProfile::nominal(WireCodec::F32), measured];
    let wires = |request: &heph_plan::Request| {
        let plan = plan(request, &cluster).unwrap().plan;
        plan.stages.iter().find_map(|s| s.wire_in)
    };
    assert_eq!(wires(&request), Some(WireCodec::Packed));
    // As slow to write as this it is not worth its bytes.
    request.codecs[1].seconds_per_number = 1e-6;
    assert_eq!(wires(&request), Some(WireCodec::F32));
}

/// The guards of privacy, money and exactness, each where breaking it would be the faster plan.
#[test]
fn no_guard_gives_way_to_speed() {
    let (mut request, mut cluster) = private_scene();
    request.policy = Policy::open(heph_types::Leaves::Text, &Role::ALL);
    cluster.nodes[0].profile.price.answer_token = 0.01;
    let free = plan(&request, &cluster).unwrap().plan;
    assert_eq!(free.stages[0].name, "n1", "the dear stranger is the fastest");
    let credits = free.expected.credits;
    request.objective.credits_max = Some(credits * 0.99);
    let capped = plan(&request, &cluster).unwrap().plan;
    assert!(
        capped.expected.credits <= credits * 0.99,
        "{}",
        capped.expected.credits
    );
    request.objective.credits_max = None;
    cluster.nodes[0].profile.exactness = Exactness::Close;
    request.policy.exact_only = true;
    let exact = plan(&request, &cluster).unwrap();
    assert!(exact.plan.stages.iter().all(|s| s.name != "n1") && exact.plan.exactness == Exactness::Exact);
    assert_eq!(exact.reason.constraint, Constraint::ExactOnly);
    request.policy.exact_only = false;
    cluster.nodes[0].profile.state = NodeState::OwnerWorks;
    request.direct = DirectForwarding::Allowed;
    let open = plan(&request, &cluster).unwrap().plan;
    assert!(open.stages.iter().all(|s| s.name != "n1"));
    request.policy.forbidden = cluster.nodes.iter().map(|n| n.profile.node).collect();
    assert_eq!(plan(&request, &cluster).unwrap().plan.mode, Mode::Local);
}

/// An inexact codec is never used where only exact answers are wanted, however slow the link.
#[test]
fn a_rounding_codec_stays_out_of_an_exact_answer() {
    let (mut request, mut cluster) = private_scene();
    request.codecs.push(CodecProfile::nominal(WireCodec::Int8));
    cluster.nodes[1].link.up = 1e5;
    cluster.nodes[1].link.down = 1e5;
    request.objective.inexact_loss = 0.0;
    request.mode = Some(Mode::Layered);
    let loose = plan(&request, &cluster).unwrap().plan;
    assert_eq!(
        (loose.exactness, loose.stages[1].wire_in),
        (Exactness::Close, Some(WireCodec::Int8))
    );
    request.policy.exact_only = true;
    let exact = plan(&request, &cluster).unwrap().plan;
    assert_eq!(exact.exactness, Exactness::Exact);
    assert!(
        exact
            .stages
            .iter()
            .flat_map(|s| [s.wire_in, s.wire_out])
            .flatten()
            .all(WireCodec::is_exact)
    );
    // Who lets rows be rounded lets no machine in whose bits are others.
    request.rounds = true;
    let rounded = plan(&request, &cluster).unwrap().plan;
    assert_eq!(rounded.stages[1].wire_in, Some(WireCodec::Int8));
    cluster
        .nodes
        .iter_mut()
        .for_each(|node| node.profile.exactness = Exactness::Close);
    let alone = plan(
        &Request {
            mode: None,
            ..request
        },
        &cluster,
    )
    .unwrap()
    .plan;
    assert_eq!((alone.mode, alone.exactness), (Mode::Local, Exactness::Exact));
}
