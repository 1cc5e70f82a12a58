//! A place in a file that only moves forward and never past the end.

use super::GgufError;

/// The bytes of a file and how far they are read.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Why a string was not read: the file ends, or it is longer than its place allows.
pub(super) enum StringError {
    Truncated(GgufError),
    TooLong,
}

impl StringError {
    /// The error itself where the file ends, and `long` for a string that is too long.
    pub(super) fn or(self, long: GgufError) -> GgufError {
        match self {
            StringError::Truncated(error) => error,
            StringError::TooLong => long,
        }
    }
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn whole(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes that are still ahead.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The bytes from `start` up to here.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    /// The next `len` bytes; `what` names them should the file end first.
    pub(super) fn take(&mut self, len: u64, what: &'static str) -> Result<&'a [u8], GgufError> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len));
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or(GgufError::Truncated {
            what,
            at: self.at,
            len: self.bytes.len(),
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A length of 8 bytes and as many bytes as it says, at most `max`.
    pub(super) fn string(&mut self, max: u64, what: &'static str) -> Result<&'a [u8], StringError> {
        let len = self.u64(what).map_err(StringError::Truncated)?;
        if len > max {
            return Err(StringError::TooLong);
        }
        self.take(len, what).map_err(StringError::Truncated)
    }
}
