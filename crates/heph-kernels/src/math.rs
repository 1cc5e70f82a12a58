//! The mathematical functions of the engine, from IEEE additions, multiplications and divisions alone.
//!
//! The platform's own differ in their last bits from one machine to the next, so none is used. Definitions
//! and measured errors stand in `docs/arithmetic.md`, "Functions". The `f32` functions have no branches,
//! so a loop over them becomes vector code; the `f64` ones serve tables, sampling and settings.

/// Above this, the exponential of an `f32` is more than the largest number.
const EXP_MAX: f32 = 88.722_83;

/// Below this, `exp` is 0: the true value is less than the smallest normal number, `2^-126`.
pub(crate) const EXP_MIN: f32 = -87.336_54;

/// Adding 1.5 * 2^23 leaves no fraction bits, so the sum is rounded to an integer, ties to even.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// ln 2 in two parts; the first has 15 bits, so its product with an exponent is exact.
pub(crate) const LN2_HIGH: f32 = 0.693_145_75;
/// What the first part leaves of ln 2.
pub(crate) const LN2_LOW: f32 = 1.428_606_8e-6;

/// Minimax polynomial of `(e^r - 1 - r) / r^2` for `|r| <= ln(2) / 2`, highest power first.
pub(crate) const EXP_TERMS: [f32; 5] = [
    1.381_459_9e-3,
    8.368_717e-3,
    4.166_839e-2,
    0.166_665_21,
    0.499_999_94,
];

/// `e^x`, rounded within 1 unit in the last place.
///
/// 0 below `ln(2^-126)`, infinite above the range, NaN for NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let bounded = if x < EXP_MAX { x } else { EXP_MAX };
    let bounded = if bounded > EXP_MIN { bounded } else { EXP_MIN };
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (bounded - n * LN2_HIGH) - n * LN2_LOW;
    let [t6, t5, t4, t3, t2] = EXP_TERMS;
    let q = (((t6 * r + t5) * r + t4) * r + t3) * r + t2;
    let p = (q * (r * r) + r) + 1.0;
    // `p` lies in [0.7, 1.5], so adding `n` to its exponent field multiplies by 2^n exactly.
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()) << 23;
    let value = f32::from_bits(p.to_bits().wrapping_add(exponent));
    let value = if x > EXP_MAX { f32::INFINITY } else { value };
    let value = if x < EXP_MIN { 0.0 } else { value };
    if x.is_nan() { f32::NAN } else { value }
}

/// Minimax polynomial of `(tanh(x) - x) / x^3` in `x^2` for `|x| <= 0.625`, highest power first.
const TANH_TERMS: [f32; 5] = [
    -5.704_987e-3,
    2.063_908_8e-2,
    -5.373_971_5e-2,
    0.133_314_42,
    -0.333_332_8,
];

/// Where `tanh` turns from its polynomial to the exponential.
const TANH_SMALL: f32 = 0.625;

/// The hyperbolic tangent, rounded within 2 units in the last place; NaN for NaN.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let z = x * x;
    let magnitude = x.abs();
    let [t4, t3, t2, t1, t0] = TANH_TERMS;
    let p = (((t4 * z + t3) * z + t2) * z + t1) * z + t0;
    let small = (p * z) * magnitude + magnitude;
    let large = 1.0 - 2.0 / (exp(magnitude + magnitude) + 1.0);
    let value = if magnitude < TANH_SMALL { small } else { large };
    value.copysign(x)
}

/// Where `erf` turns from its polynomial to the exponential.
const ERF_SMALL: f32 = 0.921_875;

/// From here on `erf` is 1: what is missing is less than half a unit in the last place.
const ERF_ONE: f32 = 3.95;

/// Minimax polynomial of `erf(x) / x - 1` in `x^2` for `|x| <= 0.921875`, highest power first.
const ERF_TERMS: [f32; 6] = [
    -6.013_393e-4,
    4.998_001e-3,
    -2.677_023_2e-2,
    0.112_819_27,
    -0.376_125_07,
    0.128_379_15,
];

/// Minimax polynomial of `-ln(1 - erf(x)) / x` for `0.921875 <= x <= 3.95`, highest power first.
const ERF_LOG_TERMS: [f32; 7] = [
    1.159_136_1e-5,
    -3.263_468_4e-4,
    3.656_598_5e-3,
    -2.379_136_7e-2,
    0.106_270_164,
    0.635_131_66,
    1.128_653_2,
];

/// The error function, rounded within 2 units in the last place; NaN for NaN.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let magnitude = x.abs();
    let z = magnitude * magnitude;
    let [t5, t4, t3, t2, t1, t0] = ERF_TERMS;
    let p = ((((t5 * z + t4) * z + t3) * z + t2) * z + t1) * z + t0;
    let small = p * magnitude + magnitude;
    let t = if magnitude < ERF_ONE { magnitude } else { ERF_ONE };
    let [l6, l5, l4, l3, l2, l1, l0] = ERF_LOG_TERMS;
    let q = (((((l6 * t + l5) * t + l4) * t + l3) * t + l2) * t + l1) * t + l0;
    let large = 1.0 - exp(-(q * t));
    let value = if magnitude < ERF_SMALL { small } else { large };
    let value = if x.is_nan() { x } else { value };
    value.copysign(x)
}

/// `1 / sqrt(x)`: the root, rounded; then the quotient, rounded.
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    1.0 / x.sqrt()
}

/// Adding 1.5 * 2^52 rounds an `f64` to an integer, ties to even.
const ROUND_64: f64 = 6_755_399_441_055_744.0;

/// ln 2 in two parts; the first has 40 bits, so its product with an exponent is exact.
const LN2_HIGH_64: f64 = 0.693_147_180_559_208_2;
/// What the first part leaves of ln 2.
const LN2_LOW_64: f64 = 7.371_002_565_167_799e-13;

/// `e^x` in `f64`, rounded within 1 unit in the last place, subnormal results included.
pub fn exp64(x: f64) -> f64 {
    if x.is_nan() {
        return f64::NAN;
    }
    if x > 709.782_712_893_384 {
        return f64::INFINITY;
    }
    if x < -745.133_219_101_941_2 {
        return 0.0;
    }
    let shifted = x * std::f64::consts::LOG2_E + ROUND_64;
    let n = shifted - ROUND_64;
    let r = (x - n * LN2_HIGH_64) - n * LN2_LOW_64;
    // Taylor's series: the first term left out, r^14 / 14!, is below 2^-57 for |r| <= ln(2) / 2.
    let series = (3..=13).rev().fold(0.0, |sum, k| (sum + 1.0 / FACTORIALS[k]) * r);
    let p = ((series + 0.5) * (r * r) + r) + 1.0;
    let n = n as i64;
    // In two steps: 2^n itself may be no number while the result is one.
    let half = n >> 1;
    (p * power_of_two(half)) * power_of_two(n - half)
}

/// `k!` at index `k`; all are exact.
const FACTORIALS: [f64; 19] = {
    let mut table = [1.0; 19];
    let mut k = 1;
    while k < table.len() {
        table[k] = table[k - 1] * k as f64;
        k += 1;
    }
    table
};

/// `2^n` for `n` in -1022..=1023.
fn power_of_two(n: i64) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

/// The natural logarithm in `f64`, rounded within 2 units in the last place.
///
/// Negative infinity for 0, NaN for negative numbers and NaN.
pub fn ln64(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x == f64::INFINITY {
        return x;
    }
    let (x, shift) = if x < f64::MIN_POSITIVE {
        (x * power_of_two(54), -54)
    } else {
        (x, 0)
    };
    // x = 2^k * m with m in [sqrt(1/2), sqrt(2)): the exponent counted from the bits of sqrt(1/2).
    let above = x
        .to_bits()
        .wrapping_sub(std::f64::consts::FRAC_1_SQRT_2.to_bits()) as i64;
    let k = above >> 52;
    let m = f64::from_bits(x.to_bits().wrapping_sub((k << 52) as u64));
    let k = (k + shift) as f64;
    // ln(1 + f) = 2 artanh(s) = 2 (s + s^3 / 3 + s^5 / 5 + ...); |s| < 0.172, so s^23 / 23 is below 2^-62.
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let series = (1..=10)
        .rev()
        .fold(0.0, |sum, j| (sum + 1.0 / f64::from(2 * j + 1)) * z);
    let s = s + s;
    k * LN2_HIGH_64 + (s + (s * series + k * LN2_LOW_64))
}

/// `base^power` for a positive base, as `exp64(power * ln64(base))`.
///
/// The relative error is about `|power * ln(base)|` units in the last place; NaN for a negative base.
pub fn pow64(base: f64, power: f64) -> f64 {
    exp64(power * ln64(base))
}

/// The largest angle of `sin64` and `cos64`: up to it, quarter turns are counted exactly.
pub const ANGLE_MAX: f64 = 67_108_864.0;

/// A quarter turn in four parts; the first three have 27 bits, so their products with a count of quarter
/// turns below 2^26 are exact.
const QUARTER: [f64; 4] = [
    1.570_796_325_802_803,
    9.920_935_739_593_517e-10,
    5.721_188_709_663_575e-18,
    1.644_625_693_632_425_8e-26,
];

/// The sine of an angle in radians, within 2^-52; NaN beyond [`ANGLE_MAX`].
pub fn sin64(x: f64) -> f64 {
    sin_cos64(x).0
}

/// The cosine of an angle in radians, within 2^-52; NaN beyond [`ANGLE_MAX`].
pub fn cos64(x: f64) -> f64 {
    sin_cos64(x).1
}

/// Sine and cosine of an angle in radians, each within 2^-52; NaN beyond [`ANGLE_MAX`].
pub fn sin_cos64(x: f64) -> (f64, f64) {
    if x.is_nan() || x.abs() > ANGLE_MAX {
        return (f64::NAN, f64::NAN);
    }
    let n = (x * std::f64::consts::FRAC_2_PI + ROUND_64) - ROUND_64;
    let r = QUARTER.iter().fold(x, |rest, part| rest - n * part);
    let (sin, cos) = (sin_near_zero(r), cos_near_zero(r));
    match (n as i64).rem_euclid(4) {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// Taylor's series for `|r| <= pi / 4`; the first term left out, r^19 / 19!, is below 2^-63.
fn sin_near_zero(r: f64) -> f64 {
    let z = r * r;
    let series = [17, 15, 13, 11, 9, 7, 5]
        .into_iter()
        .fold(0.0, |sum, k| alternate(sum, k, z));
    r + r * (z * (series - 1.0 / FACTORIALS[3]))
}

/// Taylor's series for `|r| <= pi / 4`; the first term left out, r^18 / 18!, is below 2^-58.
fn cos_near_zero(r: f64) -> f64 {
    let z = r * r;
    let series = [16, 14, 12, 10, 8, 6, 4]
        .into_iter()
        .fold(0.0, |sum, k| alternate(sum, k, z));
    1.0 + z * (series - 0.5)
}

/// One step of a Horner scheme over the odd or even powers, whose signs alternate by `k / 2`.
fn alternate(sum: f64, k: usize, z: f64) -> f64 {
    let term = 1.0 / FACTORIALS[k];
    (sum + if (k / 2).is_multiple_of(2) { term } else { -term }) * z
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units in the last place between `got` and the true value `want`, both finite and normal.
    fn ulps(got: f32, want: f64) -> f64 {
        let nearest = (want as f32).abs();
        let unit = f64::from(f32::from_bits(nearest.to_bits() + 1)) - f64::from(nearest);
        (f64::from(got) - want).abs() / unit
    }

    fn ulps64(got: f64, want: f64) -> f64 {
        let unit = f64::from_bits(want.abs().to_bits() + 1) - want.abs();
        (got - want).abs() / unit
    }

    /// The worst error of `exp` over every `step`-th bit pattern of a finite result.
    fn worst_exp(step: usize) -> f64 {
        let mut worst: f64 = 0.0;
        for bits in (0..=u32::MAX).step_by(step) {
            let x = f32::from_bits(bits);
            if (EXP_MIN..=EXP_MAX).contains(&x) {
                worst = worst.max(ulps(exp(x), f64::from(x).exp()));
            }
        }
        worst
    }

    #[test]
    fn exp_is_within_one_unit() {
        let worst = worst_exp(251);
        assert!(worst < EXP_ULPS, "{worst}");
    }

    /// The bound of `docs/arithmetic.md`.
    const EXP_ULPS: f64 = 1.0;

    #[test]
    #[ignore = "all 4 billion numbers: a minute"]
    fn exp_is_within_one_unit_everywhere() {
        let worst = worst_exp(1);
        assert!(worst < EXP_ULPS, "{worst}");
        assert_eq!(
            format!("{worst:.3}"),
            "0.976",
            "docs/arithmetic.md says otherwise"
        );
    }

    #[test]
    fn exp_has_its_defined_ends() {
        assert_eq!(exp(0.0).to_bits(), 1.0f32.to_bits());
        assert_eq!(exp(-0.0).to_bits(), 1.0f32.to_bits());
        assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan() && exp(-f32::NAN).is_nan());
        assert!(exp(EXP_MAX).is_finite() && exp(EXP_MAX.next_up()).is_infinite());
        assert!(exp(EXP_MIN) >= f32::MIN_POSITIVE);
        assert_eq!(exp(EXP_MIN.next_down()), 0.0);
        assert_eq!(exp(1e-40), 1.0);
    }

    #[test]
    fn tanh_is_within_two_units_and_odd() {
        let mut worst: f64 = 0.0;
        for bits in (0x0080_0000..0x4200_0000u32).step_by(97) {
            let x = f32::from_bits(bits);
            worst = worst.max(ulps(tanh(x), f64::from(x).tanh()));
            assert_eq!(tanh(-x), -tanh(x));
        }
        assert!(worst < 2.0, "{worst}");
        assert_eq!((tanh(f32::INFINITY), tanh(f32::NEG_INFINITY)), (1.0, -1.0));
        assert!(tanh(f32::NAN).is_nan());
        assert_eq!(tanh(-0.0).to_bits(), (-0.0f32).to_bits());
    }

    /// The true value within 2^-40 of itself: the series of Abramowitz and Stegun, 7.1.6, in `f64`.
    fn true_erf(x: f64) -> f64 {
        let mut term = x;
        let mut sum = x;
        let mut odd = 3.0;
        while term > sum * 1e-18 {
            term *= 2.0 * x * x / odd;
            sum += term;
            odd += 2.0;
        }
        2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
    }

    #[test]
    fn erf_is_within_two_units_and_odd() {
        let mut worst: f64 = 0.0;
        for bits in (0x0080_0000..0x4080_0000u32).step_by(997) {
            let x = f32::from_bits(bits);
            worst = worst.max(ulps(erf(x), true_erf(f64::from(x))));
            assert_eq!(erf(-x), -erf(x));
        }
        assert!(worst < 2.0, "{worst}");
        assert_eq!(
            (erf(f32::INFINITY), erf(f32::NEG_INFINITY), erf(4.0)),
            (1.0, -1.0, 1.0)
        );
        assert!(erf(f32::NAN).is_nan() && erf(f32::MAX) == 1.0);
        assert_eq!(erf(-0.0).to_bits(), (-0.0f32).to_bits());
    }

    #[test]
    #[ignore = "a billion numbers: a minute"]
    fn erf_has_the_error_that_the_law_names() {
        let worst = (0x0080_0000..0x4080_0000u32).map(f32::from_bits);
        let worst = worst.fold(0.0, |worst: f64, x| {
            worst.max(ulps(erf(x), true_erf(f64::from(x))))
        });
        assert_eq!(format!("{worst:.2}"), "1.20", "docs/arithmetic.md says otherwise");
    }

    /// True values, rounded to nearest from 200 bits.
    const EXP64: [(f64, u64); 6] = [
        (-700.25, 0x00ca_f5fe_9a48_5c8e),
        (-1.0, 0x3fd7_8b56_362c_ef38),
        (1e-05, 0x3ff0_000a_7c5e_340e),
        (0.5, 0x3ffa_6129_8e1e_069c),
        (13.122363377404328, 0x411e_847f_ffff_fffb),
        (709.0, 0x7fdd_422d_2be5_dc9b),
    ];
    const LN64: [(f64, u64); 6] = [
        (1e-300, 0xc085_9634_47f8_7fb5),
        (0.3, 0xbff3_4378_fcbd_a721),
        (0.999, 0xbf50_6467_0d97_9b73),
        (1.41, 0x3fd5_fd5f_abe6_4084),
        (10000.0, 0x4022_6bb1_bbb5_5516),
        (500000.0, 0x402a_3ea6_69a0_5c01),
    ];
    const SIN_COS: [(f64, u64, u64); 6] = [
        (0.001, 0x3f50_624d_a521_8a62, 0x3fef_fffe_f390_876c),
        (0.78, 0x3fe6_8143_d72d_4ce4, 0x3fe6_bfcd_bf81_7bfa),
        (15_708.0 / 10_000.0, 0x3fef_ffff_ffff_12a3, 0xbece_d025_dc75_7f0c),
        (355.0, 0xbeff_9bd0_307d_1de3, 0xbfef_ffff_ffc1_8e4c),
        (131071.0, 0xbfe2_6861_3f60_babc, 0xbfea_2ceb_bb51_3e7c),
        (67000000.0, 0x3fed_89a5_a801_c196, 0x3fd8_9e7e_6d98_ad62),
    ];

    #[test]
    fn exp64_is_within_one_unit() {
        for (x, want) in EXP64 {
            assert!(ulps64(exp64(x), f64::from_bits(want)) <= 1.0, "exp({x})");
        }
        // The platform's function is itself within one unit of the truth.
        let worst = (-70_000..70_000)
            .map(|i| f64::from(i) * 0.010_1)
            .map(|x| ulps64(exp64(x), x.exp()));
        assert!(worst.fold(0.0, f64::max) <= 2.0);
    }

    #[test]
    fn exp64_has_its_defined_ends() {
        assert_eq!(
            (exp64(f64::NEG_INFINITY), exp64(-746.0), exp64(0.0)),
            (0.0, 0.0, 1.0)
        );
        assert_eq!(
            (exp64(f64::INFINITY), exp64(709.8)),
            (f64::INFINITY, f64::INFINITY)
        );
        assert!(exp64(f64::NAN).is_nan());
        assert_eq!(exp64(-745.0), 5e-324);
    }

    #[test]
    fn ln64_is_within_two_units() {
        for (x, want) in LN64 {
            assert!(ulps64(ln64(x), f64::from_bits(want)) <= 1.0, "ln({x})");
        }
        let mut worst: f64 = 0.0;
        for i in 1..200_000u64 {
            let x = f64::from_bits(i * 0xffff_ffff_ffff * 173 % f64::INFINITY.to_bits());
            worst = worst.max(ulps64(ln64(x), x.ln()));
            let near_one = 0.5 + i as f64 / 100_003.0;
            worst = worst.max(ulps64(ln64(near_one), near_one.ln()));
        }
        assert!(worst <= 2.0, "{worst}");
    }

    #[test]
    fn ln64_has_its_defined_ends() {
        assert_eq!((ln64(0.0), ln64(-0.0)), (f64::NEG_INFINITY, f64::NEG_INFINITY));
        assert_eq!((ln64(1.0), ln64(f64::INFINITY)), (0.0, f64::INFINITY));
        assert!(ln64(-1.0).is_nan() && ln64(f64::NAN).is_nan());
    }

    #[test]
    fn sine_and_cosine_are_within_a_unit_of_one() {
        for (x, sin, cos) in SIN_COS {
            assert!((sin64(x) - f64::from_bits(sin)).abs() <= f64::EPSILON, "sin({x})");
            assert!((cos64(x) - f64::from_bits(cos)).abs() <= f64::EPSILON, "cos({x})");
        }
        let mut worst: f64 = 0.0;
        for i in 0..200_000u64 {
            let x = (i * i) as f64 * 1.677e-3 - 3.3e7;
            let (sin, cos) = sin_cos64(x);
            worst = worst.max((sin - x.sin()).abs()).max((cos - x.cos()).abs());
        }
        assert!(worst <= f64::EPSILON, "{worst:e}");
    }

    #[test]
    fn angles_without_an_answer_give_nan() {
        for x in [f64::NAN, f64::INFINITY, ANGLE_MAX * 1.01, -1e300] {
            assert!(sin64(x).is_nan() && cos64(x).is_nan());
        }
        assert_eq!((sin64(0.0), cos64(0.0)), (0.0, 1.0));
    }

    #[test]
    fn powers_of_the_usual_rope_bases_are_close() {
        for base in [10_000.0, 500_000.0, 1_000_000.0f64] {
            for i in 0..64 {
                let power = f64::from(i) / 64.0;
                assert!(ulps64(pow64(base, power), base.powf(power)) < 24.0);
            }
        }
    }
}
