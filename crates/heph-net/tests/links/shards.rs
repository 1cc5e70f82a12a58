//! Parts of model files, from machine to machine.

use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use heph_net::transfer::{self, Fetched, GROUP_BYTES, Offer, Outline, Progress, TransferError};

use heph_net::endpoint::Goodbye;

use super::*;

/// From one source, without looking on.
async fn fetch(
    from: &Connection,
    outline: &Outline,
    ranges: &[Range<u64>],
    path: &Path,
    allowed_bytes: u64,
) -> Result<Fetched, TransferError> {
    let from = std::slice::from_ref(from);
    transfer::fetch(from, outline, ranges, path, allowed_bytes, &mut |_| {}).await
}

#[tokio::test]
async fn only_the_asked_parts_travel_and_an_interrupted_transfer_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, part) = (folder.path().join("whole"), folder.path().join("part"));
    let content: Vec<u8> = (0..40 * GROUP_BYTES + 5)
        .map(|at| ((at * at) >> 7) as u8 | 1)
        .collect();
    fs::write(&whole, &content).unwrap();
    let offer = Arc::new(Offer::of(File::open(&whole).unwrap()).unwrap());
    let hash = offer.outline().hash();

    let (desk, node) = (endpoint().await, endpoint().await);
    let (to_node, to_desk) = connected(&desk, &node, Protocol::Shards).await;
    tokio::spawn(async move {
        transfer::serve(
            &to_desk,
            move |asked| (asked == hash).then(|| offer.clone()),
            None,
        )
        .await
    });

    let outline = transfer::outline(&to_node, hash).await.unwrap();
    assert_eq!(outline.bytes(), content.len() as u64);
    let (layer, next) = (
        3 * GROUP_BYTES + 7..5 * GROUP_BYTES,
        5 * GROUP_BYTES..content.len() as u64,
    );
    let first = fetch(&to_node, &outline, std::slice::from_ref(&layer), &part, u64::MAX)
        .await
        .unwrap();
    assert_eq!(
        first,
        Fetched {
            received_bytes: 2 * GROUP_BYTES,
            reused_bytes: 0
        }
    );
    let travelled = to_node.traffic().received_bytes;
    assert!(travelled < 4 * GROUP_BYTES, "{travelled} bytes for two groups");
    let there = fs::read(&part).unwrap();
    assert_eq!(
        there[layer.start as usize..layer.end as usize],
        content[layer.start as usize..layer.end as usize]
    );
    assert!(
        there[6 * GROUP_BYTES as usize..].iter().all(|byte| *byte == 0),
        "the rest is a hole"
    );

    let both = [layer, next];
    let more = fetch(&to_node, &outline, &both, &part, u64::MAX).await.unwrap();
    assert_eq!(
        more,
        Fetched {
            received_bytes: 35 * GROUP_BYTES + 5,
            reused_bytes: 2 * GROUP_BYTES
        }
    );
    // A byte that rots is fetched again.
    let mut there = fs::read(&part).unwrap();
    assert_eq!(
        there[3 * GROUP_BYTES as usize..],
        content[3 * GROUP_BYTES as usize..]
    );
    there[20 * GROUP_BYTES as usize] ^= 1;
    fs::write(&part, there).unwrap();
    let repaired = fetch(&to_node, &outline, &both, &part, u64::MAX).await.unwrap();
    assert_eq!(repaired.received_bytes, GROUP_BYTES);

    let too_much = fetch(&to_node, &outline, &both, &part, 10).await;
    assert!(matches!(
        too_much,
        Err(TransferError::NoRoom {
            allowed_bytes: 10,
            ..
        })
    ));
    let everything = 0..u64::MAX;
    let beyond = fetch(
        &to_node,
        &outline,
        std::slice::from_ref(&everything),
        &part,
        u64::MAX,
    )
    .await;
    assert!(matches!(beyond, Err(TransferError::Beyond { .. })));
    assert!(matches!(
        transfer::outline(&to_node, [7; 32]).await,
        Err(TransferError::NotThere)
    ));
}

#[tokio::test]
async fn a_peer_that_sends_other_bytes_is_caught_at_the_first_group() {
    let folder = tempfile::tempdir().unwrap();
    let (good, part) = (folder.path().join("good"), folder.path().join("part"));
    fs::write(&good, vec![1; 9 * GROUP_BYTES as usize]).unwrap();
    let offer = Arc::new(Offer::of(File::open(&good).unwrap()).unwrap());
    let outline = offer.outline().clone();
    // The file changes under the offer.
    fs::write(&good, vec![2; 9 * GROUP_BYTES as usize]).unwrap();
    let (desk, node) = (endpoint().await, endpoint().await);
    let (to_node, to_desk) = connected(&desk, &node, Protocol::Shards).await;
    tokio::spawn(async move { transfer::serve(&to_desk, move |_| Some(offer.clone()), None).await });
    let all = 0..9 * GROUP_BYTES;
    let wrong = fetch(&to_node, &outline, std::slice::from_ref(&all), &part, u64::MAX).await;
    assert!(matches!(wrong, Err(TransferError::Wrong)), "{wrong:?}");
    assert!(
        fs::read(&part).unwrap().iter().all(|byte| *byte == 0),
        "nothing wrong was written"
    );
}

#[tokio::test]
async fn several_sources_share_the_work_and_bad_ones_cost_nothing_but_their_part() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part");
    let bytes = 64 * GROUP_BYTES;
    let content: Vec<u8> = (0..bytes).map(|at| ((at * at) >> 9) as u8 | 1).collect();
    let good = Arc::new(Offer::of_bytes(content.clone()).unwrap());
    let outline = good.outline().clone();
    // One source sends other bytes, one has no such file, one leaves at the first request.
    let forged = folder.path().join("forged");
    fs::write(&forged, vec![9; bytes as usize]).unwrap();
    let forged = Arc::new(Offer::outlined(outline.clone(), File::open(&forged).unwrap()));
    let node = endpoint().await;
    let mut sources = Vec::new();
    let mut alive = Vec::new();
    for offers in [vec![good.clone()], vec![forged], vec![], vec![good.clone()]] {
        let desk = endpoint().await;
        let (to_source, to_node) = connected(&node, &desk, Protocol::Shards).await;
        tokio::spawn(async move { transfer::serve(&to_node, move |_| offers.first().cloned(), None).await });
        sources.push(to_source);
        alive.push(desk);
    }
    let desk = endpoint().await;
    let (leaver, to_node) = connected(&node, &desk, Protocol::Shards).await;
    tokio::spawn(async move {
        to_node.accept().await.unwrap();
        to_node.close(Goodbye::Done);
    });
    sources.push(leaver);
    let mut steps: Vec<Progress> = Vec::new();
    let all = 0..bytes;
    let asked = std::slice::from_ref(&all);
    let done = transfer::fetch(&sources, &outline, asked, &part, u64::MAX, &mut |step| {
        steps.push(step)
    })
    .await;
    assert_eq!(done.unwrap().received_bytes, bytes);
    assert_eq!(fs::read(&part).unwrap(), content);
    assert!(
        steps
            .windows(2)
            .all(|pair| pair[0].done_bytes <= pair[1].done_bytes)
    );
    let last = Progress {
        done_bytes: bytes,
        total_bytes: bytes,
    };
    assert_eq!((steps[0].done_bytes, *steps.last().unwrap()), (0, last));

    fs::remove_file(&part).unwrap();
    let bad = transfer::fetch(&sources[1..3], &outline, asked, &part, u64::MAX, &mut |_| {}).await;
    assert!(
        matches!(bad, Err(TransferError::Wrong | TransferError::NotThere)),
        "{bad:?}"
    );
    let nobody = transfer::fetch(&[], &outline, asked, &part, u64::MAX, &mut |_| {}).await;
    assert!(matches!(nobody, Err(TransferError::NoSource)), "{nobody:?}");
}
