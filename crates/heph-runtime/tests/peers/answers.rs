//! The same bits, whoever computes them, and what travels for it.

use heph_engine::sample::SamplingOptions;
use heph_net::session::Codecs;
use heph_runtime::desk::Guess;
use heph_runtime::draft::{Drafter, EchoDrafter, Either, ModelDrafter};
use heph_runtime::line::LineError;
use heph_types::{Branch, TokenId, WireCodec};

use super::*;

/// Who holds which of the two layers: alone, in two, in three, with ids and logits at home.
const LAYOUTS: [&[(usize, usize, usize)]; 5] = [
    &[(0, 0, 2)],
    &[(0, 0, 1), (1, 1, 2)],
    &[(0, 0, 1), (1, 1, 1), (2, 1, 2)],
    &[(2, 0, 0), (0, 0, 1), (1, 1, 2), (2, 2, 2)],
    &[(1, 0, 1), (2, 1, 2)],
];

fn guesses() -> Pace {
    let node = Arc::new(node_of(NodeId([9; 32])));
    let line = Line::whole(model(), node, LineLimits::default());
    let drafter = Either(EchoDrafter::default(), ModelDrafter::new(line, Cancel::new()));
    Pace::Guess(Guess {
        drafter: Box::new(drafter),
        length: 4,
        ahead: 2,
        branches: 0,
    })
}

/// Knows everything, and says every third token wrong with the right one on a branch.
struct Contrary(ModelDrafter);

impl Drafter for Contrary {
    fn begin(&mut self, sampling: &SamplingOptions) {
        self.0.begin(sampling);
    }

    fn draft(&mut self, history: &[TokenId], count: usize) -> Result<Vec<TokenId>, LineError> {
        let mut guesses = self.0.draft(history, count)?;
        for (at, token) in guesses.iter_mut().enumerate() {
            if (history.len() + at).is_multiple_of(3) {
                *token = TokenId(token.0 ^ 1);
            }
        }
        Ok(guesses)
    }

    fn branches(
        &mut self,
        history: &[TokenId],
        guesses: &[TokenId],
        count: usize,
    ) -> Result<Vec<Branch>, LineError> {
        let wrong = (0..guesses.len()).filter(|at| (history.len() + at).is_multiple_of(3));
        let right = |at: usize| Branch {
            at: at as u32,
            tokens: [&[TokenId(guesses[at].0 ^ 1)], &guesses[at + 1..]].concat(),
        };
        Ok(wrong.take(count).map(right).collect())
    }
}

#[test]
fn a_peer_follows_the_branch_that_is_right() {
    let world = World::new(1);
    for sampled in [false, true] {
        let expected = at_home(&options(sampled));
        let node = Arc::new(node_of(NodeId([9; 32])));
        let line = Line::whole(model(), node, LineLimits::default());
        let guess = Guess {
            drafter: Box::new(Contrary(ModelDrafter::new(line, Cancel::new()))),
            length: 4,
            ahead: 1,
            branches: 1,
        };
        let mut desk = desk(world.line(&[(0, 0, 2)]), Pace::Guess(guess));
        let answer = ask(&mut desk, PROMPT, &options(sampled)).expect("an answer");
        assert_eq!((&answer.tokens, &answer.text), (&expected.tokens, &expected.text));
        assert_eq!(answer.moves, []);
        assert!(answer.guesses.branched > 3, "{:?}", answer.guesses);
    }
}

/// A piece was sent behind one that proved wrong, and the peer that draws left out what followed its own first wrong guess: it was blamed for that.
#[test]
fn no_peer_is_blamed_for_what_it_leaves_out_of_a_piece_that_is_void() {
    let world = World::new(2);
    let expected = at_home(&options(true));
    for layout in [LAYOUTS[1], LAYOUTS[2], LAYOUTS[4]] {
        for length in [2, 4, 6] {
            let node = Arc::new(node_of(NodeId([9; 32])));
            let line = Line::whole(model(), node, LineLimits::default());
            let guess = Guess {
                drafter: Box::new(Contrary(ModelDrafter::new(line, Cancel::new()))),
                length,
                ahead: 2,
                branches: 0,
            };
            let mut desk = desk(world.line(layout), Pace::Guess(guess));
            let answer = ask(&mut desk, PROMPT, &options(true)).expect("an answer");
            assert_eq!(answer.tokens, expected.tokens, "{layout:?}, {length}");
            assert_eq!(answer.moves, [], "{layout:?}, {length}");
        }
    }
}

#[test]
fn peers_answer_with_the_bits_of_home() {
    let world = World::new(2);
    for sampled in [false, true] {
        let expected = at_home(&options(sampled));
        for layout in LAYOUTS {
            for pace in [Pace::Steps, Pace::Stream, guesses()] {
                let mut desk = desk(world.line(layout), pace);
                let answer = ask(&mut desk, PROMPT, &options(sampled)).expect("an answer");
                assert_eq!(answer.tokens, expected.tokens, "{layout:?}");
                assert_eq!(answer.text, expected.text);
                assert_eq!(answer.moves, [], "{layout:?}");
                assert!(answer.traffic.up > 0 && answer.traffic.down > 0);
            }
        }
    }
    let (_, serving) = &world.nodes[0];
    assert!(serving.served().tokens > 0);
    until("sessions end with their desks", || serving.served().sessions == 0);
}

#[test]
fn a_conversation_goes_on_where_it_was_with_other_options() {
    let world = World::new(2);
    let mut far = desk(world.line(&[(0, 0, 1), (1, 1, 2)]), Pace::Steps);
    let near = world.line_over(vec![Arc::new(node_of(NodeId([1; 32])))], &[(0, 0, 2)]);
    let mut near = desk(near, Pace::Steps);
    let mut said = PROMPT.to_owned();
    let opened = |at: usize| world.nodes[at].1.served().opened;
    for seed in 0..4 {
        let mut options = options(false);
        options.sampling.temperature = 0.7;
        options.sampling.seed = seed;
        options.max_tokens = Some(8);
        let [a, b] = [&mut far, &mut near].map(|desk| ask(desk, &said, &options).expect("an answer"));
        assert_eq!(a.tokens, b.tokens);
        assert_eq!(a.cached_tokens, b.cached_tokens);
        said = format!("{said}{} Then", a.text);
    }
    assert_eq!(
        (opened(0), opened(1)),
        (1, 1),
        "nothing was replayed for another seed"
    );
}

#[test]
fn rows_in_half_the_bytes_cost_what_is_promised() {
    let world = World::new(1);
    let bf16 = Codecs {
        up: WireCodec::Bf16,
        down: WireCodec::Bf16,
    };
    let peer: Arc<dyn Host> = Arc::new(world.peer(0).with_codecs(bf16));
    let here: Arc<dyn Host> = Arc::new(node_of(world.desk.node()));
    let line = world.line_over(vec![peer, here], &[(1, 0, 1), (0, 1, 2), (1, 2, 2)]);
    let mut desk = desk(line, Pace::Steps);
    let mut few = options(false);
    few.max_tokens = Some(1);
    let first = ask(&mut desk, PROMPT, &few).expect("an answer").traffic;
    let more = ask(&mut desk, PROMPT, &options(false)).expect("an answer");
    // The second answer computes the prompt's last token and those after it, one by one; its own first is the first
    // answer's once more.
    let tokens = more.tokens.len() as u64;
    let width = model().width as u64;
    let signs_of_life = 64;
    assert!(first.up > 0);
    assert!(
        more.traffic.up <= tokens * (2 * width + 64) + signs_of_life,
        "{:?}",
        more.traffic
    );
    assert!(
        more.traffic.down <= tokens * (2 * width + 64) + signs_of_life,
        "{:?}",
        more.traffic
    );
}

#[test]
fn what_the_receipt_counts_is_what_the_socket_sends_and_little_more() {
    let world = World::new(1);
    let peer = world.peer(0);
    let line = world.line_over(vec![Arc::new(peer.clone())], &[(0, 0, 2)]);
    let mut desk = desk(line, Pace::Stream);
    let answer = ask(&mut desk, PROMPT, &options(false)).expect("an answer");
    let packets = peer.packets();
    assert!(packets.sent_bytes > answer.traffic.up && packets.received_bytes > answer.traffic.down);
    assert!(
        peer.round_trip()
            .is_some_and(|time| time < Duration::from_secs(1))
    );
}

#[test]
fn a_stream_that_is_left_costs_no_session() {
    let world = World::new(1);
    let peers: Vec<Arc<dyn Host>> = vec![Arc::new(world.peer(0))];
    let mut far = desk(world.line_over(peers, &[(0, 0, 2)]), Pace::Stream);
    let here: Vec<Arc<dyn Host>> = vec![Arc::new(node_of(NodeId([1; 32])))];
    let mut near = desk(world.line_over(here, &[(0, 0, 2)]), Pace::Steps);
    let mut said = PROMPT.to_owned();
    for (turn, stop) in [" ", "e", " the", "a", " "].into_iter().enumerate() {
        let mut options = options(turn % 2 == 0);
        options.stops = vec![stop.to_owned()];
        let [a, b] = [&mut far, &mut near].map(|desk| ask(desk, &said, &options).expect("an answer"));
        assert_eq!((a.tokens, a.text.as_str()), (b.tokens, b.text.as_str()));
        said = format!("{said}{} Then", a.text);
    }
    assert_eq!(
        world.nodes[0].1.served().opened,
        1,
        "left five times, opened once"
    );
}

#[test]
fn seats_far_away_are_opened_together() {
    let world = World::new(2);
    let began = std::time::Instant::now();
    world.nodes[1].0.network.vanish();
    // The second node is gone; that is noticed while the first is opened, and its stage goes to the desk's machine.
    let mut desk = desk(world.line(&[(0, 0, 1), (1, 1, 2)]), Pace::Steps);
    let answer = ask(&mut desk, PROMPT, &options(true)).expect("an answer");
    assert_eq!(answer.tokens, at_home(&options(true)).tokens);
    assert_eq!(answer.moves.len(), 1);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn the_same_question_again_goes_on_where_its_answer_began() {
    let expected = at_home(&options(true));
    let world = World::new(1);
    let hosts: [Arc<dyn Host>; 2] = [Arc::new(world.peer(0)), Arc::new(node_of(NodeId([9; 32])))];
    for host in hosts {
        // What it chose on its own last time stands behind the question in its cache.
        let mut desk = desk(world.line_over(vec![host], &[(0, 0, 2)]), Pace::Stream);
        for time in 0..3 {
            let answer = ask(&mut desk, PROMPT, &options(true)).expect("an answer");
            assert_eq!(answer.tokens, expected.tokens, "time {time}");
            assert_eq!(answer.moves, [], "time {time}");
            let held = if time == 0 { 0 } else { answer.prompt.len() - 1 };
            assert_eq!(answer.cached_tokens, held);
        }
    }
}
