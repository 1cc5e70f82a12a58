//! Writing GGUF version 3: first the whole header, then tensor bytes as they become ready.

use super::{ALIGNMENT, Array, GgufError, Kind, MAGIC, Value};
use heph_kernels::format::Format;
use std::io::{self, Write};

/// Metadata and tensor table of a file to be written.
#[derive(Debug, Clone, Default)]
pub struct Header {
    entries: u64,
    metadata: Vec<u8>,
    tensors: u64,
    table: Vec<u8>,
    /// Bytes of each tensor.
    sizes: Vec<usize>,
    /// Where the next tensor starts, counted from the first.
    offset: usize,
}

impl Header {
    /// A file without metadata and tensors.
    pub fn new() -> Header {
        Header::default()
    }

    /// Adds any value. A key must not be added twice.
    pub fn set(&mut self, key: &str, value: &Value<'_>) {
        self.key(key, value.kind());
        put_value(&mut self.metadata, value);
    }

    /// Adds a string.
    pub fn text(&mut self, key: &str, value: &str) {
        self.set(key, &Value::String(value.as_bytes()));
    }

    /// Adds a whole number of 32 bits.
    pub fn u32(&mut self, key: &str, value: u32) {
        self.set(key, &Value::U32(value));
    }

    /// Adds a float.
    pub fn f32(&mut self, key: &str, value: f32) {
        self.set(key, &Value::F32(value));
    }

    /// Adds a truth value.
    pub fn flag(&mut self, key: &str, value: bool) {
        self.set(key, &Value::Bool(value));
    }

    /// Adds an array of strings.
    pub fn texts<T: AsRef<[u8]>>(&mut self, key: &str, values: &[T]) {
        self.array(key, Kind::String, values.len());
        for value in values {
            put_string(&mut self.metadata, value.as_ref());
        }
    }

    /// Adds an array of signed whole numbers.
    pub fn i32s(&mut self, key: &str, values: &[i32]) {
        self.array(key, Kind::I32, values.len());
        self.metadata
            .extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// Adds an array of floats.
    pub fn f32s(&mut self, key: &str, values: &[f32]) {
        self.array(key, Kind::F32, values.len());
        self.metadata
            .extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    /// Adds a tensor; `dims` begins with the length of a row.
    ///
    /// # Errors
    /// For a shape that the format cannot hold.
    pub fn tensor(&mut self, name: &str, format: Format, dims: &[usize]) -> Result<(), GgufError> {
        let impossible = || GgufError::Shape {
            name: name.to_owned(),
        };
        let row = dims
            .first()
            .and_then(|&cols| format.row_bytes(cols))
            .ok_or_else(impossible)?;
        let size = dims[1..]
            .iter()
            .try_fold(row, |size, &dim| size.checked_mul(dim))
            .ok_or_else(impossible)?;
        put_string(&mut self.table, name.as_bytes());
        self.table.extend((dims.len() as u32).to_le_bytes());
        self.table
            .extend(dims.iter().flat_map(|&dim| (dim as u64).to_le_bytes()));
        self.table.extend(format.to_ggml().to_le_bytes());
        self.table.extend((self.offset as u64).to_le_bytes());
        self.tensors += 1;
        self.sizes.push(size);
        self.offset = size
            .checked_next_multiple_of(ALIGNMENT)
            .and_then(|padded| self.offset.checked_add(padded))
            .ok_or_else(impossible)?;
        Ok(())
    }

    /// Writes the header and returns what takes the tensors' bytes.
    pub fn begin<W: Write>(self, mut out: W) -> io::Result<Body<W>> {
        let mut head = Vec::with_capacity(24);
        head.extend(MAGIC);
        head.extend(3u32.to_le_bytes());
        head.extend(self.tensors.to_le_bytes());
        head.extend(self.entries.to_le_bytes());
        let len = head.len() + self.metadata.len() + self.table.len();
        out.write_all(&head)?;
        out.write_all(&self.metadata)?;
        out.write_all(&self.table)?;
        pad(&mut out, len)?;
        Ok(Body {
            out,
            sizes: self.sizes,
            next: 0,
        })
    }

    fn key(&mut self, key: &str, kind: Kind) {
        self.entries += 1;
        put_string(&mut self.metadata, key.as_bytes());
        self.metadata.extend((kind as u32).to_le_bytes());
    }

    fn array(&mut self, key: &str, kind: Kind, len: usize) {
        self.key(key, Kind::Array);
        self.metadata.extend((kind as u32).to_le_bytes());
        self.metadata.extend((len as u64).to_le_bytes());
    }
}

/// A file whose header is written and whose tensors follow.
#[derive(Debug)]
pub struct Body<W> {
    out: W,
    sizes: Vec<usize>,
    next: usize,
}

impl<W: Write> Body<W> {
    /// Writes all bytes of the next tensor, in the order in which the header named them.
    ///
    /// # Errors
    /// When the bytes are not as many as the header said, or as the writer says.
    pub fn tensor(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.sizes.get(self.next) != Some(&bytes.len()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "tensor bytes do not match the header",
            ));
        }
        self.next += 1;
        self.out.write_all(bytes)?;
        pad(&mut self.out, bytes.len())
    }

    /// Ends the file and hands the writer back.
    ///
    /// # Errors
    /// When tensors are missing.
    pub fn finish(mut self) -> io::Result<W> {
        if self.next != self.sizes.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "tensors are missing"));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

fn pad(out: &mut impl Write, len: usize) -> io::Result<()> {
    out.write_all(&[0; ALIGNMENT][..len.next_multiple_of(ALIGNMENT) - len])
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

fn put_array(out: &mut Vec<u8>, array: &Array<'_>) {
    out.extend((array.kind() as u32).to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    out.extend(array.raw());
}

fn put_value(out: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::String(bytes) => put_string(out, bytes),
        Value::Array(array) => put_array(out, array),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}
