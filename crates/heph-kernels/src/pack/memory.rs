//! Zeroed memory for weights, aligned to cache lines.
//!
//! Where the system allows, it comes straight from the system in large pages: reading a matrix end to end then
//! misses the translation cache less, and the first touch costs one fault for 2 MiB rather than 512.

/// Bytes that begin on a cache line.
pub(super) struct Memory {
    bytes: Bytes,
}

#[cfg(not(target_arch = "wasm32"))]
type Bytes = Option<memmap2::MmapMut>;

#[cfg(target_arch = "wasm32")]
type Bytes = Vec<Line>;

/// As much as a cache line.
#[cfg(target_arch = "wasm32")]
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

#[cfg(not(target_arch = "wasm32"))]
impl Memory {
    /// `len` zeros, or `None` where the system has no room.
    pub(super) fn zeroed(len: usize) -> Option<Memory> {
        if len == 0 {
            return Some(Memory { bytes: None });
        }
        let map = memmap2::MmapMut::map_anon(len).ok()?;
        #[cfg(target_os = "linux")]
        // A system without large pages serves small ones.
        let _ = map.advise(memmap2::Advice::HugePage);
        Some(Memory { bytes: Some(map) })
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        self.bytes.as_deref_mut().unwrap_or_default()
    }
}

#[cfg(target_arch = "wasm32")]
impl Memory {
    /// `len` zeros, rounded up to lines, or `None` where there is no room.
    pub(super) fn zeroed(len: usize) -> Option<Memory> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len.div_ceil(64)).ok()?;
        bytes.resize(len.div_ceil(64), Line([0; 64]));
        Some(Memory { bytes })
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: lines are plain bytes without padding.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().cast(), 64 * self.bytes.len()) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: lines are plain bytes without padding.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.as_mut_ptr().cast(), 64 * self.bytes.len()) }
    }
}
