//! What the exactness tests share: hard inputs and the comparison of bits.

use crate::isa::Isa;

/// Random cases for each kernel. Emulators are built with fewer, by the variable `HEPH_CASES`.
pub(crate) const CASES: usize = match option_env!("HEPH_CASES") {
    Some(cases) => match usize::from_str_radix(cases, 10) {
        Ok(cases) => cases,
        Err(_) => panic!("HEPH_CASES is a number"),
    },
    None => 20_000,
};

/// A sequence of draws from a seed; the generator is Weyl's sequence through a mixing function.
pub(crate) struct Draws(u64);

impl Draws {
    pub(crate) fn new(seed: u64) -> Draws {
        Draws(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let z = (z ^ (z >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        z ^ (z >> 32)
    }

    /// A number in `0..limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// A number of ordinary size, in (-4, 4).
    pub(crate) fn plain(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 21) as f32 - 4.0
    }

    pub(crate) fn plains(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.plain()).collect()
    }

    /// Numbers of one character: mostly ordinary ones, else with extreme scales, subnormal, or with
    /// infinities and NaN among them.
    pub(crate) fn floats(&mut self, len: usize) -> Vec<f32> {
        let character = self.below(8);
        (0..len).map(|_| self.float(character)).collect()
    }

    fn float(&mut self, character: usize) -> f32 {
        match character {
            0 => self.plain() * 2f32.powi(self.below(250) as i32 - 125),
            1 => f32::from_bits(self.next() as u32 & 0x807f_ffff),
            2 if self.below(40) == 0 => [
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                f32::MAX,
                f32::MIN_POSITIVE,
                -0.0,
            ][self.below(6)],
            3 => f32::from_bits(self.next() as u32),
            _ => self.plain(),
        }
    }
}

/// Fails unless both have the same bits; one NaN is as good as another.
pub(crate) fn same_bits(want: &[f32], got: &[f32], isa: Isa) {
    assert_eq!(want.len(), got.len());
    if let Some(at) = want.iter().zip(got).position(one_differs) {
        panic!(
            "{isa} differs at {at} of {}: {:e}, not {:e}",
            want.len(),
            got[at],
            want[at]
        );
    }
}

/// Whether some bits differ, for the tests that plant a mistake.
pub(crate) fn differ(want: &[f32], got: &[f32]) -> bool {
    want.len() != got.len() || want.iter().zip(got).any(one_differs)
}

fn one_differs((want, got): (&f32, &f32)) -> bool {
    want.to_bits() != got.to_bits() && !(want.is_nan() && got.is_nan())
}
