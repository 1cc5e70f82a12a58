//! What nodes sign of their work, over real sockets.

use heph_runtime::receipt::Receipt;

use super::*;

/// The first layer of a statement, and its positions.
type Stated = (u16, (u32, u32));

/// What the machines of an answer sign, as a receipt of `asked_by` would hold it, and the tokens of the answer.
fn signed(
    world: &World,
    stages: &[(usize, usize, usize)],
    pace: Pace,
    asked_by: NodeId,
) -> (Vec<Stated>, u32) {
    let mut desk = desk(world.line(stages), pace);
    let answer = ask(&mut desk, PROMPT, &options(false)).expect("an answer");
    let tokens = (answer.prompt.len() + answer.tokens.len()) as u32;
    let receipt = Receipt {
        vouched: desk.vouched(),
        ..Receipt::here("tiny", 2, tokens as usize)
    };
    let body = receipt.with_model(HASH, String::new()).body("r", asked_by, 0);
    let computed = body.computed.iter();
    let told = computed.map(|one| (one.layers.0, one.tokens)).collect();
    (told, tokens)
}

#[test]
fn each_node_signs_for_its_layers_and_its_tokens() {
    let world = World::new(2);
    let desk = world.desk.node();
    let two = [(0, 0, 1), (1, 1, 2)];
    let (told, tokens) = signed(&world, &two, Pace::Steps, desk);
    assert_eq!(told.iter().map(|(layer, _)| *layer).collect::<Vec<_>>(), [0, 1]);
    for (_, (first, to)) in &told {
        // The last token of an answer is chosen and goes in nowhere; a stream that is left forgets one more.
        assert!(
            *first == 0 && (tokens - 2..=tokens).contains(to),
            "{told:?} of {tokens}"
        );
    }
    // A node that goes on alone signs, too.
    let (told, tokens) = signed(&world, &[(0, 0, 2)], Pace::Stream, desk);
    assert!(
        matches!(told[..], [(0, (0, to))] if (tokens - 2..=tokens).contains(&to)),
        "{told:?} of {tokens}"
    );
    // Nobody can show it as work for himself.
    let (told, _) = signed(&world, &two, Pace::Steps, NodeId([9; 32]));
    assert_eq!(told, []);
}

#[test]
fn who_is_gone_signs_nothing() {
    let world = World::new(2);
    let mut desk = desk(world.line(&[(0, 0, 1), (1, 1, 2)]), Pace::Steps);
    let options = options(false);
    let mut moved = false;
    let network = world.nodes[1].0.network.clone();
    desk.answer(Prompt::Text(PROMPT), &options, &mut |_| {
        if !std::mem::replace(&mut moved, true) {
            network.vanish();
        }
    })
    .expect("this machine is left");
    // Who is gone signs nothing, and this machine needs not.
    let nodes: Vec<NodeId> = desk.vouched().iter().map(|vouched| vouched.node).collect();
    assert_eq!(nodes, [world.nodes[0].0.node()]);
}
