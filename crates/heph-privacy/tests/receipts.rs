//! Receipts: short, and every change of one is noticed.

use ed25519_dalek::{Signer, SigningKey};
use heph_privacy::label::Level;
use heph_privacy::policy::Kind;
use heph_privacy::receipt::{self, Body, Bytes, Checked, Computed, Place, ReceiptError};
use proptest::prelude::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the node at this place of the list says that it computed.
fn stated(node: u16, tokens: (u32, u32)) -> Computed {
    let desk = *key(1).verifying_key().as_bytes();
    let signed = receipt::to_state(&desk, &[0xab; 32], 7, (4, 12), tokens);
    Computed {
        node,
        session: 7,
        layers: (4, 12),
        tokens,
        signature: hex(&key(node as u8 + 1).sign(&signed).to_bytes()),
    }
}

fn body() -> Body {
    let place = |node, from, to, first, last| Place {
        node,
        tokens: (from, to),
        layers: (first, last),
    };
    let bytes = |node, up, down| Bytes {
        node,
        kind: Kind::Own,
        level: Level::Internal,
        up,
        down,
        weights: false,
    };
    Body {
        id: "00112233445566778899aabbccddeeff".into(),
        at: 1_764_208_800,
        model: "llama-3.2-1b-instruct".into(),
        file: "ab".repeat(32),
        precision: "Q4_K_M".into(),
        exactness: "exact".into(),
        mode: "layered".into(),
        nodes: [1, 2, 3].map(|n| hex(key(n).verifying_key().as_bytes())).into(),
        places: vec![
            place(0, 0, 1000, 0, 4),
            place(1, 0, 612, 4, 12),
            place(2, 612, 1000, 4, 12),
            place(0, 0, 1000, 12, 16),
        ],
        bytes: vec![bytes(1, 2_507_000, 2_507_000), bytes(2, 1_589_000, 1_589_000)],
        computed: vec![stated(1, (0, 612)), stated(2, (612, 1000))],
        rules: vec!["preset: own machines".into(), "no salaries".into()],
        replaced: 3,
        credits: 12,
        prompt_tokens: 412,
        answer_tokens: 588,
        first_ms: 312,
        total_ms: 19_822,
        checked: Checked::Sampled,
    }
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn signed() -> String {
    receipt::sign(&body(), &key(1)).unwrap()
}

/// The same with machines that agree to all of it.
fn agreed() -> String {
    let receipt = receipt::counter_sign(&signed(), &key(2)).unwrap();
    receipt::counter_sign(&receipt, &key(3)).unwrap()
}

#[test]
fn a_receipt_for_a_thousand_tokens_with_two_nodes_is_two_kilobytes_at_most() {
    let receipt = signed();
    let verified = receipt::verify(&receipt).unwrap();
    assert_eq!(verified.body, body());
    assert_eq!(verified.signers, [*key(1).verifying_key().as_bytes()]);
    assert!(receipt.len() <= 2048, "{} bytes", receipt.len());
    let agreed = receipt::verify(&agreed()).unwrap();
    assert_eq!(
        agreed.signers,
        [1, 2, 3].map(|n| *key(n).verifying_key().as_bytes())
    );
}

#[test]
fn nodes_vouch_for_what_they_computed_and_for_nothing_else() {
    let verified = receipt::verify(&signed()).unwrap();
    assert!(verified.is_vouched_for(1) && verified.is_vouched_for(2));
    assert!(
        !verified.is_vouched_for(0) && !verified.is_vouched_for(9),
        "nobody signed for them"
    );
    let mut more = body();
    more.places[1].tokens = (0, 700);
    let verified = receipt::verify(&receipt::sign(&more, &key(1)).unwrap()).unwrap();
    assert!(!verified.is_vouched_for(1) && verified.is_vouched_for(2));
    // Nor where the receipt says that there are fewer tokens than it says were computed.
    for tokens in [0, 10, 611] {
        (more.prompt_tokens, more.answer_tokens) = (tokens, 0);
        let verified = receipt::verify(&receipt::sign(&more, &key(1)).unwrap()).unwrap();
        assert!(!verified.is_vouched_for(1), "{tokens} tokens");
    }
    // The last two tokens of an answer go in nowhere.
    for (to, vouched) in [(614, true), (615, false)] {
        let mut last = body();
        last.places[1].tokens = (0, to);
        (last.prompt_tokens, last.answer_tokens) = (to - 5, 5);
        let verified = receipt::verify(&receipt::sign(&last, &key(1)).unwrap()).unwrap();
        assert_eq!(verified.is_vouched_for(1), vouched, "up to {to}");
    }
    // Layers that node 1 signed for are not vouched for where another is said to have computed them.
    let mut others = body();
    others.places.retain(|place| place.node == 1);
    others.places[0].node = 0;
    let verified = receipt::verify(&receipt::sign(&others, &key(1)).unwrap()).unwrap();
    assert!(!verified.is_vouched_for(0));
    // What a node signed counts for this machine, model, session, layers and tokens.
    let changes: [fn(&mut Body); 6] = [
        |b| b.computed[0].tokens.1 += 1,
        |b| b.computed[0].layers.0 -= 1,
        |b| b.computed[0].session += 1,
        |b| b.computed[0].node = 2,
        |b| b.file = "ac".repeat(32),
        |b| b.computed[1].signature = b.computed[0].signature.clone(),
    ];
    for change in changes {
        let mut body = body();
        change(&mut body);
        assert!(matches!(
            receipt::sign(&body, &key(1)),
            Err(ReceiptError::Unstated(_))
        ));
    }
    // Another machine cannot show it as its own.
    assert_eq!(receipt::sign(&body(), &key(4)), Err(ReceiptError::Unstated(1)));
}

#[test]
fn every_changed_byte_is_noticed() {
    let receipt = agreed();
    for place in 0..receipt.len() - 1 {
        for flip in [1, 32] {
            let mut bytes = receipt.clone().into_bytes();
            bytes[place] ^= flip;
            let Ok(changed) = String::from_utf8(bytes) else {
                continue;
            };
            assert!(receipt::verify(&changed).is_err(), "byte {place} of {changed}");
        }
    }
}

#[test]
fn signatures_cannot_be_moved_or_taken_from_elsewhere() {
    let receipt = agreed();
    let lines: Vec<&str> = receipt.lines().collect();
    // The second signature is over the first one, so it cannot take its place.
    let moved = [lines[0], lines[1], lines[3], lines[2]].join("\n");
    assert_eq!(receipt::verify(&moved), Err(ReceiptError::Forged(1)));
    let bare = lines[..2].join("\n");
    assert_eq!(receipt::verify(&bare), Err(ReceiptError::Unsigned));
    let mut other = body();
    other.credits += 1;
    let foreign = receipt::sign(&other, &key(1)).unwrap();
    let mixed = [lines[0], lines[1], foreign.lines().nth(2).unwrap()].join("\n");
    assert_eq!(receipt::verify(&mixed), Err(ReceiptError::Forged(1)));
    assert!(receipt::counter_sign(&moved, &key(4)).is_err());
}

#[test]
fn a_receipt_that_contradicts_itself_is_none() {
    let wrong: [fn(&mut Body); 3] = [
        |b| b.places[0].node = 9,
        |b| b.places[0].tokens = (5, 4),
        |b| b.first_ms = b.total_ms + 1,
    ];
    for change in wrong {
        let mut body = body();
        change(&mut body);
        body.computed.clear();
        assert!(matches!(
            receipt::sign(&body, &key(1)),
            Err(ReceiptError::Contradiction(_))
        ));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_verified_or_refused(text in ".{0,400}", cut in 0_usize..2000) {
        let receipt = agreed();
        prop_assert!(receipt::verify(&text).is_err());
        let headed = format!("heph-receipt 1\n{text}");
        prop_assert!(receipt::verify(&headed).is_err());
        // A prefix is a receipt where it ends with a whole signature.
        let front = &receipt[..cut.min(receipt.len() - 1)];
        let whole = front.lines().count() > 2 && receipt[front.trim_end().len()..].starts_with('\n');
        prop_assert_eq!(receipt::verify(front).is_ok(), whole);
    }
}

#[test]
fn nobody_agrees_twice_and_no_receipt_is_longer_than_can_be_read() {
    for (receipt, key) in [(signed(), key(1)), (agreed(), key(2)), (agreed(), key(1))] {
        let again = receipt::counter_sign(&receipt, &key);
        assert!(matches!(again, Err(ReceiptError::Contradiction(_))), "{again:?}");
    }
    let long = Body {
        rules: vec!["a rule with a name of its own".into(); receipt::BYTES_MAX / 20],
        ..body()
    };
    assert_eq!(receipt::sign(&long, &key(1)), Err(ReceiptError::TooLong));
}
