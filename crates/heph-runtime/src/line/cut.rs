//! Where a prompt is cut.
//!
//! A stage begins a piece once the stage before has it whole: while the first piece is computed all other machines wait for it,
//! and while the last one is, all but the last. So the pieces of several stages grow at the beginning and become shorter
//! towards the end, in lengths that products take in whole sets (`docs/decisions/0032`).

use std::ops::Range;

use heph_engine::worker::CHUNK_DEFAULT;
use heph_kernels::matmul::EVEN_TOKENS as EVEN;

/// The shortest piece is a part of a whole one as small as this, or a set of tokens.
const SHORTEST: usize = 3;

/// Of what is left no piece takes more than such a part, so that what waits for the last one has little to wait for.
const LEFT: usize = 4;

/// The pieces of so many tokens, in order; what `chunk` holds is one. Those of a lone stage are as long as each other, `chunk` at most.
/// Those of several stages are as long as `chunk`, in whole sets, and shorter at both ends.
pub(super) fn pieces(tokens: usize, chunk: usize, several: bool) -> impl Iterator<Item = Range<usize>> {
    let chunk = chunk.clamp(1, CHUNK_DEFAULT);
    let count = tokens.div_ceil(chunk).max(1);
    let alike = !several || count <= 1 || chunk <= EVEN;
    let shortest = chunk.div_ceil(SHORTEST).next_multiple_of(EVEN);
    // No worker takes more rows at once.
    let whole = chunk.next_multiple_of(shortest).min(CHUNK_DEFAULT / EVEN * EVEN);
    let (mut number, mut at) = (0, 0);
    std::iter::from_fn(move || {
        let begin = at;
        number += 1;
        at = match alike {
            true => (tokens as u128 * number as u128 / count as u128) as usize,
            false => {
                let left = tokens - begin;
                let share = left.div_ceil(LEFT).next_multiple_of(shortest);
                begin + whole.min(share).min(begin + shortest).min(left)
            }
        };
        (begin < tokens).then_some(begin..at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(tokens: usize, chunk: usize, several: bool) -> Vec<usize> {
        pieces(tokens, chunk, several).map(|piece| piece.len()).collect()
    }

    #[test]
    fn pieces_are_all_tokens_in_order_and_none_is_too_long() {
        for tokens in [0, 1, 2, 12, 13, 31, 32, 33, 64, 500, 511, 512, 2048, 131_072] {
            for chunk in [0, 1, 5, 12, 13, 16, 32, 300, 511, 512, 4096] {
                for several in [false, true] {
                    let mut at = 0;
                    for piece in pieces(tokens, chunk, several) {
                        assert_eq!(piece.start, at, "{tokens} {chunk} {several}");
                        let most = match several && chunk < tokens && chunk > EVEN {
                            true => (chunk + chunk.div_ceil(3) + 2 * EVEN).min(CHUNK_DEFAULT),
                            false => chunk.max(1),
                        };
                        let fits = (1..=most).contains(&piece.len());
                        assert!(fits, "{tokens} {chunk} {several}: {piece:?}");
                        at = piece.end;
                    }
                    assert_eq!(at, tokens, "{chunk} {several}");
                }
            }
        }
    }

    #[test]
    fn pieces_of_several_stages_are_short_at_both_ends_and_whole_sets() {
        assert_eq!(long(128, 32, false), [32; 4]);
        assert_eq!(long(30, 32, true), [30], "one piece stays one");
        assert_eq!(long(24, 8, true), [8; 3], "a set is not divided");
        assert_eq!(long(128, 32, true), [12, 24, 24, 24, 12, 12, 12, 8]);
        assert_eq!(long(300, 128, true), [48, 96, 48, 48, 48, 12]);
        let longest = long(131_072, 512, true).into_iter().max();
        assert_eq!(longest, Some(504), "the longest that a worker takes");
        assert_eq!(long(1024, usize::MAX, false), [512; 2]);
        let whole = long(512, 32, true);
        assert_eq!(whole[..4], [12, 24, 36, 36]);
        assert_eq!(whole[whole.len() - 5..], [24, 24, 12, 12, 8]);
        assert!(
            whole.len() <= 512 / 32 + 4,
            "each piece costs something: {whole:?}"
        );
    }

    /// When a desk is done that has six layers before and six behind the ten of another machine, `way` from it, in what one layer takes for
    /// a token: it takes on what has come back, or else begins the next piece.
    fn ends(pieces: &[usize], way: usize) -> usize {
        let (mut now, mut other, mut begun, mut back) = (0, 0, 0, Vec::new());
        for done in 0..pieces.len() {
            while begun < pieces.len() && back.get(done).is_none_or(|at| *at > now) {
                now += 6 * pieces[begun];
                other = other.max(now + way) + 10 * pieces[begun];
                back.push(other + way);
                begun += 1;
            }
            now = now.max(back[done]) + 6 * pieces[done];
        }
        now
    }

    #[test]
    fn what_goes_there_and_back_is_done_sooner_than_with_pieces_that_are_alike() {
        for (tokens, chunk) in [
            (512, 16),
            (512, 32),
            (512, 64),
            (512, 128),
            (2048, 64),
            (1000, 32),
        ] {
            let [alike, cut] = [false, true].map(|several| ends(&long(tokens, chunk, several), 300));
            assert!(cut < alike, "{tokens} {chunk}: {cut}, {alike}");
        }
        let [alike, cut] = [false, true].map(|several| ends(&long(512, 32, several), 300));
        assert!(100 * cut < 97 * alike, "{cut}, {alike}");
    }
}
