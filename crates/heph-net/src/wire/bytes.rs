//! Little-endian numbers, short numbers, and lists, written and read with every length checked first.

use heph_types::TokenId;

use super::WireError;

/// Appends to a frame.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) out: Vec<u8>,
}

impl Writer {
    pub(super) fn u8(&mut self, n: u8) {
        self.out.push(n);
    }

    pub(super) fn u16(&mut self, n: u16) {
        self.out.extend(n.to_le_bytes());
    }

    pub(super) fn u64(&mut self, n: u64) {
        self.out.extend(n.to_le_bytes());
    }

    pub(super) fn f32(&mut self, x: f32) {
        self.out.extend(x.to_le_bytes());
    }

    /// Seven bits a byte, lowest first; the top bit says that more follow (LEB128).
    pub(super) fn short(&mut self, n: impl Into<u64>) {
        let mut n = n.into();
        while n >= 0x80 {
            self.out.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.out.push(n as u8);
    }

    /// A length or count that has to stay within `max`.
    pub(super) fn length(&mut self, what: &'static str, n: usize, max: usize) -> Result<(), WireError> {
        within(what, n, max)?;
        self.short(n as u64);
        Ok(())
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend(bytes);
    }

    pub(super) fn blob(&mut self, what: &'static str, bytes: &[u8], max: usize) -> Result<(), WireError> {
        self.length(what, bytes.len(), max)?;
        self.raw(bytes);
        Ok(())
    }

    pub(super) fn tokens(
        &mut self,
        what: &'static str,
        tokens: &[TokenId],
        max: usize,
    ) -> Result<(), WireError> {
        self.length(what, tokens.len(), max)?;
        tokens.iter().for_each(|token| self.short(token.0));
        Ok(())
    }
}

fn within(what: &'static str, got: usize, max: usize) -> Result<usize, WireError> {
    if got > max {
        return Err(WireError::TooLong { what, got, max });
    }
    Ok(got)
}

/// Takes from a frame's body.
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn raw(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(|[n]| n)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn f32(&mut self) -> Result<f32, WireError> {
        self.array().map(f32::from_le_bytes)
    }

    /// A short number in its shortest form; each number has one form only.
    pub(super) fn short64(&mut self) -> Result<u64, WireError> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 || shift > 0 && byte == 0 {
                return Err(WireError::LongNumber);
            }
            n |= bits << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(WireError::LongNumber)
    }

    pub(super) fn short(&mut self) -> Result<u32, WireError> {
        u32::try_from(self.short64()?).map_err(|_| WireError::LongNumber)
    }

    pub(super) fn length(&mut self, what: &'static str, max: usize) -> Result<usize, WireError> {
        within(what, self.short()? as usize, max)
    }

    /// The number of list entries that follow, each of at least `least` bytes: a count that the rest of the frame cannot
    /// hold is refused before anything is reserved.
    pub(super) fn count(&mut self, what: &'static str, max: usize, least: usize) -> Result<usize, WireError> {
        let count = self.length(what, max)?;
        if count * least > self.rest.len() {
            return Err(WireError::Short);
        }
        Ok(count)
    }

    pub(super) fn blob(&mut self, what: &'static str, max: usize) -> Result<&'a [u8], WireError> {
        let length = self.length(what, max)?;
        self.raw(length)
    }

    pub(super) fn tokens(&mut self, what: &'static str, max: usize) -> Result<Vec<TokenId>, WireError> {
        let count = self.count(what, max, 1)?;
        (0..count).map(|_| self.short().map(TokenId)).collect()
    }
}
