//! Where a prompt is cut.
//!
//! A stage begins a piece once the stage before has it whole. Of the rows that nobody asks about the last stage spares its
//! last layer, so that it is a little ahead of a stage with as many layers, waits for each piece, and has all of the last one
//! before it when the others are done. Pieces that become shorter let it start that one late and be done with it soon:
//! `docs/decisions/0029`.

use std::ops::Range;

use heph_engine::worker::CHUNK_DEFAULT;

/// The pieces of so many tokens, in order: as many as of `chunk` each there would be. Alike where `last` is `None`; where it is
/// the number of layers of the last of several stages, the first are longer, by half at most, and the last shorter by as much.
pub(super) fn pieces(tokens: usize, chunk: usize, last: Option<usize>) -> impl Iterator<Item = Range<usize>> {
    let count = tokens.div_ceil(chunk.max(1));
    let (all, pieces) = (tokens as u128, count as u128);
    // Each piece puts the last stage ahead by one of its layers, so the first is longer by `pieces / flatness` of itself. No worker
    // takes more rows at once.
    let flatness = last.map(|layers| 2 * pieces.max(layers as u128));
    let flatness =
        flatness.filter(|flatness| all * (flatness + pieces) <= pieces * flatness * CHUNK_DEFAULT as u128);
    let end = move |number: usize| {
        let number = number as u128;
        let end = match flatness {
            Some(flatness) => all * number * (flatness + pieces - number) / (flatness * pieces),
            None => all * number / pieces,
        };
        end as usize
    };
    let piece = move |number| end(number)..end(number + 1);
    (0..count).map(piece).filter(|piece| !piece.is_empty())
}

#[cfg(test)]
mod tests {
    use super::pieces;

    /// When the last of two stages is done, in thousandths of what the first takes for a row, on which all hang one after the other.
    fn ends(pieces: impl Iterator<Item = std::ops::Range<usize>>, layers: usize) -> usize {
        let row = 1000 * (layers - 1) / layers;
        pieces.fold(0, |done, piece| done.max(1000 * piece.end) + row * piece.len())
    }

    #[test]
    fn pieces_are_all_tokens_in_order_and_none_is_too_long() {
        for tokens in [0, 1, 2, 31, 32, 33, 64, 500, 511, 512, 2048, 131_072] {
            for chunk in [1, 5, 16, 32, 300, 512, 4096] {
                for last in [None, Some(0), Some(1), Some(11), Some(80)] {
                    let (mut at, mut before) = (0, usize::MAX);
                    for piece in pieces(tokens, chunk, last) {
                        assert_eq!(piece.start, at, "{tokens} {chunk} {last:?}");
                        let most = if last.is_some() && chunk < 512 {
                            (chunk * 3).div_ceil(2).min(512)
                        } else {
                            chunk
                        };
                        assert!(
                            (1..=most).contains(&piece.len()),
                            "{tokens} {chunk} {last:?}: {piece:?}"
                        );
                        assert!(
                            piece.len() <= before.saturating_add(1),
                            "{tokens} {chunk} {last:?}: {piece:?}"
                        );
                        (at, before) = (piece.end, piece.len());
                    }
                    assert_eq!(at, tokens, "{chunk} {last:?}");
                }
            }
        }
    }

    #[test]
    fn a_lone_piece_stays_one_and_others_become_shorter() {
        let long = |tokens, chunk, last| {
            pieces(tokens, chunk, last)
                .map(|piece| piece.len())
                .collect::<Vec<_>>()
        };
        assert_eq!(long(30, 32, Some(11)), [30]);
        assert_eq!(long(128, 32, None), [32; 4]);
        assert_eq!(long(128, 32, Some(4)), [44, 36, 28, 20]);
        assert_eq!(
            long(128, 32, Some(12)),
            [36, 33, 31, 28],
            "one layer of more is less"
        );
    }

    #[test]
    fn the_last_stage_is_done_sooner_than_with_pieces_that_are_alike() {
        for (tokens, chunk, layers) in [
            (512, 32, 11),
            (512, 16, 11),
            (512, 64, 11),
            (2048, 64, 16),
            (1000, 32, 40),
        ] {
            let alike = ends(pieces(tokens, chunk, None), layers);
            let shorter = ends(pieces(tokens, chunk, Some(layers)), layers);
            let piece = 1000 * chunk;
            let gain = piece * tokens.div_ceil(chunk).min(layers) / (4 * layers);
            assert!(
                shorter + gain <= alike,
                "{tokens} {chunk} {layers}: {shorter}, {alike}"
            );
        }
    }
}
