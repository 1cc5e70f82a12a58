//! Random numbers without a state: each is a function of the seed and of what it is drawn for.
//!
//! Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011). Whoever draws for
//! the same position gets the same numbers, whatever was drawn before and wherever.

use crate::math::ln64;

/// Numbers drawn for one purpose must not serve another; each purpose has a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Stream {
    /// The noise by which a token is sampled.
    Sampling = 0,
    /// The noise of a draft model, where it must differ from that of its target.
    Draft = 1,
}

/// The four words of Philox4x32-10 for a counter and a key.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
        }
        let (high0, low0) = wide_product(0xd251_1f53, counter[0]);
        let (high1, low1) = wide_product(0xcd9e_8d57, counter[2]);
        counter = [
            high1 ^ counter[1] ^ key[0],
            low1,
            high0 ^ counter[3] ^ key[1],
            low0,
        ];
    }
    counter
}

fn wide_product(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    ((product >> 32) as u32, product as u32)
}

/// Four random words for the tokens `4 * block` to `4 * block + 3` at `position`.
///
/// The key is the seed, low half first; the counter is `(position, block, stream, 0)`.
pub fn words(seed: u64, position: u32, block: u32, stream: Stream) -> [u32; 4] {
    philox(
        [position, block, stream as u32, 0],
        [seed as u32, (seed >> 32) as u32],
    )
}

/// A word as a number in (0, 1): the middle of its 2^-32 wide cell, exact in `f64`, never 0 or 1.
pub fn uniform(word: u32) -> f64 {
    (f64::from(word) + 0.5) / 4_294_967_296.0
}

/// A word as noise of the standard Gumbel distribution: `-ln(-ln(u))` in `f64`, rounded once.
pub fn gumbel_of(word: u32) -> f32 {
    -ln64(-ln64(uniform(word))) as f32
}

/// The Gumbel noise by which `token` is sampled at `position`.
pub fn gumbel(seed: u64, position: u32, token: u32) -> f32 {
    let words = words(seed, position, token / 4, Stream::Sampling);
    gumbel_of(words[(token % 4) as usize])
}

/// The Gumbel noise of the tokens from 0 on at `position`: `out[token]`, as [`gumbel`] gives it.
pub fn gumbel_row(seed: u64, position: u32, out: &mut [f32]) {
    for (block, four) in out.chunks_mut(4).enumerate() {
        let words = words(seed, position, block as u32, Stream::Sampling);
        for (value, word) in four.iter_mut().zip(words) {
            *value = gumbel_of(word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_its_published_words() {
        // The known answers of the Random123 library.
        let all = u32::MAX;
        let cases = [
            (
                [0; 4],
                [0; 2],
                [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
            ),
            (
                [all; 4],
                [all; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, want) in cases {
            assert_eq!(philox(counter, key), want);
        }
    }

    #[test]
    fn uniform_numbers_never_reach_the_ends() {
        assert!(uniform(0) > 0.0 && uniform(u32::MAX) < 1.0);
        assert!(gumbel_of(0).is_finite() && gumbel_of(u32::MAX).is_finite());
    }

    #[test]
    fn a_row_holds_the_noise_of_each_token() {
        let mut row = [0.0; 11];
        gumbel_row(7, 1_000, &mut row);
        let single: Vec<f32> = (0..11).map(|token| gumbel(7, 1_000, token)).collect();
        assert_eq!(row.as_slice(), single);
        assert_ne!(row[0], gumbel(8, 1_000, 0), "the seed does not matter");
        assert_ne!(row[0], gumbel(7, 1_001, 0), "the position does not matter");
        assert_ne!(
            words(7, 1_000, 0, Stream::Draft),
            words(7, 1_000, 0, Stream::Sampling)
        );
    }

    #[test]
    fn the_noise_has_the_mean_and_spread_of_a_gumbel() {
        let mut row = vec![0.0; 200_000];
        gumbel_row(1, 0, &mut row);
        let mean = row.iter().map(|&g| f64::from(g)).sum::<f64>() / 2e5;
        let variance = row.iter().map(|&g| (f64::from(g) - mean).powi(2)).sum::<f64>() / 2e5;
        assert!((mean - 0.577_215_66).abs() < 0.02, "{mean}");
        assert!((variance - 1.644_934).abs() < 0.05, "{variance}");
    }

    #[test]
    fn the_largest_noise_picks_tokens_by_their_share() {
        // Two tokens with probabilities 0.8 and 0.2: logits differ by ln 4.
        let wins = (0..20_000)
            .filter(|&p| gumbel(3, p, 0) + 4f32.ln() > gumbel(3, p, 1))
            .count();
        assert!((15_700..16_300).contains(&wins), "{wins}");
    }
}
