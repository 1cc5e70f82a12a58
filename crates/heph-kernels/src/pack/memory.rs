//! Zeroed memory for weights, aligned to cache lines.
//!
//! Where the system allows, it comes straight from the system in large pages: reading a matrix end to end then
//! misses the translation cache less, prefetching in hardware does not end every 4 KiB, and the first touch costs one
//! fault for 2 MiB rather than 512. Since few matrices are whole large pages, those of a model lie in one [`Room`]
//! side by side.

#[cfg(not(target_arch = "wasm32"))]
use mapping::Bytes;
use std::cell::Cell;
#[cfg(target_arch = "wasm32")]
use vector::Bytes;

/// Memory for several matrices, taken from the system at once.
#[derive(Default)]
pub struct Room {
    #[cfg_attr(
        target_arch = "wasm32",
        expect(dead_code, reason = "there, each matrix is asked for alone")
    )]
    free: Option<Bytes>,
}

/// Memory for one tile at a time, which a thread keeps from one product to the next: as much as its largest took.
pub(crate) struct Scratch(Vec<Line>);

/// As much as a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

thread_local! {
    static KEPT: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

impl Scratch {
    /// That of this thread.
    pub(crate) fn take() -> Scratch {
        Scratch(KEPT.take())
    }

    /// `len` bytes with whatever was there before.
    pub(super) fn of(&mut self, len: usize) -> &mut [u8] {
        if self.0.len() < len.div_ceil(64) {
            self.0.resize(len.div_ceil(64), Line([0; 64]));
        }
        // SAFETY: lines are plain bytes without padding, and there are as many.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        KEPT.set(std::mem::take(&mut self.0));
    }
}

/// Bytes that begin on a cache line, zero at first.
pub(super) struct Memory {
    bytes: Bytes,
}

impl Room {
    /// Room for matrices of `len` bytes together; what the system refuses is asked for again, matrix by matrix.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn of(len: usize) -> Room {
        Room {
            free: Bytes::zeroed(len),
        }
    }

    /// No room at first: each matrix is asked for alone.
    #[cfg(target_arch = "wasm32")]
    pub fn of(_: usize) -> Room {
        Room::default()
    }

    /// `len` zeros out of this room, or from the system if there are not so many left; `None` where that has none.
    pub(super) fn take(&mut self, len: usize) -> Option<Memory> {
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(bytes) = self.free.as_mut().and_then(|free| free.split_off(len)) {
            return Some(Memory { bytes });
        }
        let bytes = Bytes::zeroed(len)?;
        Some(Memory { bytes })
    }
}

impl Memory {
    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        self.bytes.as_mut_slice()
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod mapping {
    use std::ops::Range;
    use std::sync::Arc;

    /// A large page of x86-64 and of most 64-bit ARM.
    const LARGE_PAGE: usize = 2 << 20;

    /// Some bytes of a mapping that nobody else has.
    pub(super) struct Bytes {
        map: Arc<Map>,
        range: Range<usize>,
    }

    /// A mapping whose bytes are handed out in parts.
    struct Map {
        base: *mut u8,
        _owner: Option<memmap2::MmapMut>,
    }

    // SAFETY: the pointer is to memory that the mapping owns; each byte is reached through one `Bytes` alone.
    unsafe impl Send for Map {}
    // SAFETY: as above.
    unsafe impl Sync for Map {}

    impl Bytes {
        /// `len` zeros, or `None` where the system has no room.
        pub(super) fn zeroed(len: usize) -> Option<Bytes> {
            let large = len >= LARGE_PAGE;
            // Whole large pages, and one more to begin where one begins: only what is touched becomes memory.
            let room = if large {
                len.checked_add(2 * LARGE_PAGE)?
            } else {
                len
            };
            let mut owner = match room {
                0 => None,
                _ => Some(memmap2::MmapMut::map_anon(room).ok()?),
            };
            let base = owner
                .as_mut()
                .map_or(std::ptr::NonNull::dangling().as_ptr(), |map| map.as_mut_ptr());
            #[cfg(target_os = "linux")]
            if large && let Some(map) = &owner {
                // A system without large pages serves small ones.
                let _ = map.advise(memmap2::Advice::HugePage);
            }
            let start = if large { base.align_offset(LARGE_PAGE) } else { 0 };
            let map = Arc::new(Map { base, _owner: owner });
            Some(Bytes {
                map,
                range: start..start + len,
            })
        }

        /// The first `len` of these bytes, which are then no longer here; `None` if there are not so many.
        pub(super) fn split_off(&mut self, len: usize) -> Option<Bytes> {
            let (start, end) = (self.range.start, self.range.start.checked_add(len)?);
            if end > self.range.end {
                return None;
            }
            self.range.start = end;
            Some(Bytes {
                map: Arc::clone(&self.map),
                range: start..end,
            })
        }

        pub(super) fn as_slice(&self) -> &[u8] {
            // SAFETY: the range lies in the mapping, whose bytes begin as zeros; no other `Bytes` has any of it.
            unsafe { std::slice::from_raw_parts(self.map.base.add(self.range.start), self.range.len()) }
        }

        pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
            // SAFETY: as above, and the borrow of `self` is exclusive.
            unsafe { std::slice::from_raw_parts_mut(self.map.base.add(self.range.start), self.range.len()) }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn parts_of_a_room_are_zero_and_nobody_elses() {
            let mut all = Bytes::zeroed(3 * LARGE_PAGE).expect("three large pages");
            let mut parts: Vec<Bytes> = (0..3).filter_map(|_| all.split_off(LARGE_PAGE)).collect();
            assert!(all.split_off(1).is_none() && parts.len() == 3);
            for (n, part) in parts.iter_mut().enumerate() {
                assert!(part.as_slice().iter().all(|&byte| byte == 0));
                part.as_mut_slice().fill(n as u8 + 1);
            }
            drop(all);
            for (n, part) in parts.iter().enumerate() {
                assert!(part.as_slice().iter().all(|&byte| byte == n as u8 + 1));
            }
        }
    }
}

#[cfg(target_arch = "wasm32")]
mod vector {
    use super::Line;

    /// Lines that hold the bytes.
    pub(super) struct Bytes(Vec<Line>);

    impl Bytes {
        /// `len` zeros, rounded up to lines, or `None` where there is no room.
        pub(super) fn zeroed(len: usize) -> Option<Bytes> {
            let mut lines = Vec::new();
            lines.try_reserve_exact(len.div_ceil(64)).ok()?;
            lines.resize(len.div_ceil(64), Line([0; 64]));
            Some(Bytes(lines))
        }

        pub(super) fn as_slice(&self) -> &[u8] {
            // SAFETY: lines are plain bytes without padding.
            unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), 64 * self.0.len()) }
        }

        pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
            // SAFETY: lines are plain bytes without padding.
            unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), 64 * self.0.len()) }
        }
    }
}
