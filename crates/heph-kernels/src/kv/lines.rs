//! Numbers in memory that begins on a cache line.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// The size of a cache line, and of the widest vector.
const LINE: usize = 64;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// Types of which every bit pattern is a value.
pub(crate) trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for u16 {}
impl Plain for i8 {}

/// A slice of numbers that starts on a cache line, so that no vector of it crosses one needlessly.
#[derive(Clone)]
pub(crate) struct Lines<T> {
    lines: Box<[Line]>,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Plain> Lines<T> {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Lines<T> {
        let lines = vec![Line([0; LINE]); (len * size_of::<T>()).div_ceil(LINE)];
        Lines {
            lines: lines.into_boxed_slice(),
            len,
            of: PhantomData,
        }
    }
}

impl<T: Plain> Lines<T> {
    /// Makes the slice at least `len` long; what it held may be lost.
    pub(crate) fn at_least(&mut self, len: usize) {
        if self.len < len {
            *self = Lines::zeros(len);
        }
    }
}

impl<T: Plain> Default for Lines<T> {
    fn default() -> Lines<T> {
        Lines::zeros(0)
    }
}

impl<T: Plain> Deref for Lines<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `zeros` made room for `len` numbers, lines are aligned for every `Plain` type, whose
        // bytes are all initialised and all valid.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the borrow of `self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl<T> std::fmt::Debug for Lines<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lines({})", self.len)
    }
}
