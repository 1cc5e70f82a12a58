//! The instruction sets a kernel can be told to use.
//!
//! Every one gives the same bits (`docs/arithmetic.md`); they differ in speed alone. The choice is an
//! argument of each kernel, so that one process can compare them.

use std::str::FromStr;

/// An instruction set that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain code for any machine: the reference that the others must equal.
    Scalar,
    /// x86-64 with AVX2 and F16C.
    Avx2,
    /// As `Avx2`, with the 8-bit dot products of AVX-VNNI.
    Avx2Vnni,
    /// x86-64 with AVX-512 F, BW, VL and VNNI.
    Avx512,
    /// 64-bit ARM.
    Neon,
    /// As `Neon`, with 8-bit dot products.
    NeonDot,
    /// WebAssembly with 128-bit SIMD, known when the module is compiled.
    WasmSimd,
}

impl Isa {
    /// All of them, slowest first within each kind of machine.
    pub const ALL: [Isa; 7] = [
        Isa::Scalar,
        Isa::Avx2,
        Isa::Avx2Vnni,
        Isa::Avx512,
        Isa::Neon,
        Isa::NeonDot,
        Isa::WasmSimd,
    ];

    /// The fastest that this machine has.
    pub fn best() -> Isa {
        Isa::ALL
            .into_iter()
            .rev()
            .find(|isa| isa.available())
            .unwrap_or(Isa::Scalar)
    }

    /// Whether this machine has it. The answer is remembered, so asking is cheap.
    pub fn available(self) -> bool {
        match self {
            Isa::Scalar => true,
            Isa::Avx2 => x86::avx2(),
            Isa::Avx2Vnni => x86::avx2() && x86::avx_vnni(),
            Isa::Avx512 => x86::avx2() && x86::avx512(),
            Isa::Neon => arm::neon(),
            Isa::NeonDot => arm::neon() && arm::dotprod(),
            Isa::WasmSimd => cfg!(all(target_arch = "wasm32", target_feature = "simd128")),
        }
    }

    /// Those that this machine has, `Scalar` first.
    pub fn all_available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.available()).collect()
    }

    /// The name that `from_str` reads.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx2Vnni => "avx2vnni",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
            Isa::NeonDot => "neondot",
            Isa::WasmSimd => "wasm",
        }
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no instruction set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no instruction set; known are scalar, avx2, avx2vnni, avx512, neon, neondot and wasm")]
pub struct UnknownIsa(pub String);

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(word: &str) -> Result<Isa, UnknownIsa> {
        let named = Isa::ALL.into_iter().find(|isa| isa.name() == word);
        named.ok_or_else(|| UnknownIsa(word.to_owned()))
    }
}

/// Defines a function that takes an [`Isa`] first and runs a body compiled for that instruction set.
///
/// The body is ordinary code, written once: what it calls must be inlined for the instruction set to reach
/// it. Panics when the machine lacks the instruction set.
macro_rules! per_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name(isa: $crate::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn plain($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,f16c")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                plain($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                plain($($arg),*)
            }

            assert!(isa.available(), "this machine has no {isa}");
            match isa {
                // SAFETY: the assertion above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx2 | $crate::isa::Isa::Avx2Vnni => unsafe { avx2($($arg),*) },
                // SAFETY: the assertion above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx512 => unsafe { avx512($($arg),*) },
                // NEON is part of every 64-bit ARM, and SIMD of a WebAssembly module is fixed when it is built.
                _ => plain($($arg),*),
            }
        }
    };
}
pub(crate) use per_isa;

#[cfg(target_arch = "x86_64")]
mod x86 {
    pub(super) fn avx2() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")
    }

    pub(super) fn avx_vnni() -> bool {
        is_x86_feature_detected!("avxvnni")
    }

    pub(super) fn avx512() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    pub(super) fn avx2() -> bool {
        false
    }

    pub(super) fn avx_vnni() -> bool {
        false
    }

    pub(super) fn avx512() -> bool {
        false
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    pub(super) fn neon() -> bool {
        std::arch::is_aarch64_feature_detected!("neon")
    }

    pub(super) fn dotprod() -> bool {
        std::arch::is_aarch64_feature_detected!("dotprod")
    }
}

#[cfg(not(target_arch = "aarch64"))]
mod arm {
    pub(super) fn neon() -> bool {
        false
    }

    pub(super) fn dotprod() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse(), Ok(isa));
        }
    }

    #[test]
    fn an_unknown_name_is_refused() {
        assert_eq!("sse9".parse::<Isa>(), Err(UnknownIsa("sse9".to_owned())));
    }

    #[test]
    fn the_best_is_available_and_scalar_always_is() {
        assert!(Isa::best().available());
        assert_eq!(Isa::all_available()[0], Isa::Scalar);
    }
}
