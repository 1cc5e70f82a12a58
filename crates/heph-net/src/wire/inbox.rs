//! Bytes as they arrive, cut into frames.

use super::bytes::Reader;
use super::{FRAME_MAX, Frame, WireError};

/// Collects fragments of a stream until a frame is whole. Holds at most one unfinished frame beside the bytes given
/// last, and reserves no more than has arrived, whatever length a frame claims.
#[derive(Debug, Default)]
pub struct Inbox {
    held: Vec<u8>,
    read: usize,
}

impl Inbox {
    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.drain(..self.read);
        self.read = 0;
        self.held.extend_from_slice(bytes);
    }

    /// The next whole frame. After an error the stream means nothing any more.
    pub fn pop(&mut self) -> Result<Option<Frame>, WireError> {
        let mut rest = Reader {
            rest: &self.held[self.read..],
        };
        let length = match rest.length("bytes of a frame", FRAME_MAX) {
            Err(WireError::Short) => return Ok(None),
            length => length?,
        };
        let Some(body) = rest.rest.get(..length) else {
            return Ok(None);
        };
        let frame = Frame::decode(body)?;
        self.read = self.held.len() - rest.rest.len() + length;
        Ok(Some(frame))
    }

    /// Bytes that wait for the rest of their frame.
    pub fn waiting(&self) -> usize {
        self.held.len() - self.read
    }
}
