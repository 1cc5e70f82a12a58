//! Metadata: keys and typed values, read in place.

use super::cursor::Cursor;
use super::{GgufError, KEY_MAX};

/// Deepest array in an array; files in use go to one.
const NESTING_MAX: usize = 4;

/// The type of a value, numbered as in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the types of the specification")]
pub enum Kind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl Kind {
    const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::String,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    fn read(cursor: &mut Cursor<'_>) -> Result<Kind, GgufError> {
        let at = cursor.position();
        let kind = cursor.u32("a value's type")?;
        Kind::ALL
            .get(kind as usize)
            .copied()
            .ok_or(GgufError::ValueType { kind, at })
    }

    /// Bytes of one value, or `None` where that depends on the value.
    fn size(self) -> Option<u64> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::String | Kind::Array => None,
        }
    }
}

/// One metadata value, a view into the file.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "the names are the types of the specification")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    /// Meant to be UTF-8; vocabularies in use hold strings that are not.
    String(&'a [u8]),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// Many values of one type, read as they are asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    kind: Kind,
    len: u64,
    /// The values as they stand in the file, all lengths in them checked.
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The type of the values.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        // Every value takes at least a byte, so a checked array never holds more than memory can.
        self.len as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values as they stand in a file.
    pub(super) fn raw(&self) -> &'a [u8] {
        self.bytes
    }

    /// The values in order.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.bytes);
        let kind = self.kind;
        (0..self.len).map_while(move |_| Value::read(&mut cursor, kind, NESTING_MAX).ok())
    }

    /// The strings, or `None` for an array of something else.
    pub fn strings(&self) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
        (self.kind == Kind::String).then(|| self.values().filter_map(|value| value.as_bytes()))
    }

    /// The whole numbers, or `None` for an array of something else; those above `i64::MAX` are left out.
    pub fn integers(&self) -> Option<impl Iterator<Item = i64> + use<'a>> {
        let whole = !matches!(self.kind, Kind::F32 | Kind::F64 | Kind::String | Kind::Array);
        whole.then(|| self.values().filter_map(|value| value.as_i64()))
    }

    /// The floats, or `None` for an array of something else.
    pub fn floats(&self) -> Option<impl Iterator<Item = f32> + use<'a>> {
        matches!(self.kind, Kind::F32 | Kind::F64)
            .then(|| self.values().filter_map(|value| value.as_f64()).map(|v| v as f32))
    }
}

impl<'a> Value<'a> {
    /// Reads a value of type `kind`. `depth` arrays may still open inside it.
    fn read(cursor: &mut Cursor<'a>, kind: Kind, depth: usize) -> Result<Value<'a>, GgufError> {
        const WHAT: &str = "a metadata value";
        Ok(match kind {
            Kind::U8 => Value::U8(u8::from_le_bytes(cursor.array(WHAT)?)),
            Kind::I8 => Value::I8(i8::from_le_bytes(cursor.array(WHAT)?)),
            Kind::U16 => Value::U16(u16::from_le_bytes(cursor.array(WHAT)?)),
            Kind::I16 => Value::I16(i16::from_le_bytes(cursor.array(WHAT)?)),
            Kind::U32 => Value::U32(u32::from_le_bytes(cursor.array(WHAT)?)),
            Kind::I32 => Value::I32(i32::from_le_bytes(cursor.array(WHAT)?)),
            Kind::F32 => Value::F32(f32::from_le_bytes(cursor.array(WHAT)?)),
            Kind::Bool => Value::Bool(cursor.array::<1>(WHAT)? != [0]),
            Kind::U64 => Value::U64(u64::from_le_bytes(cursor.array(WHAT)?)),
            Kind::I64 => Value::I64(i64::from_le_bytes(cursor.array(WHAT)?)),
            Kind::F64 => Value::F64(f64::from_le_bytes(cursor.array(WHAT)?)),
            Kind::String => {
                let len = cursor.u64(WHAT)?;
                Value::String(cursor.take(len, WHAT)?)
            }
            Kind::Array => Value::Array(Value::read_array(cursor, depth)?),
        })
    }

    fn read_array(cursor: &mut Cursor<'a>, depth: usize) -> Result<Array<'a>, GgufError> {
        const WHAT: &str = "a metadata array";
        let at = cursor.position();
        let inside = depth
            .checked_sub(1)
            .ok_or(GgufError::Nesting { max: NESTING_MAX, at })?;
        let kind = Kind::read(cursor)?;
        let len = cursor.u64(WHAT)?;
        let start = cursor.position();
        let truncated = GgufError::Truncated {
            what: WHAT,
            at,
            len: cursor.whole().len(),
        };
        // A string or an array takes at least the 8 bytes of its length.
        let size = len
            .checked_mul(kind.size().unwrap_or(8))
            .ok_or(truncated.clone())?;
        if size > cursor.left() as u64 {
            return Err(truncated);
        }
        if kind.size().is_some() {
            cursor.take(size, WHAT)?;
        } else {
            for _ in 0..len {
                Value::read(cursor, kind, inside)?;
            }
        }
        Ok(Array {
            kind,
            len,
            bytes: cursor.since(start),
        })
    }

    /// The value's type.
    pub fn kind(&self) -> Kind {
        match self {
            Value::U8(_) => Kind::U8,
            Value::I8(_) => Kind::I8,
            Value::U16(_) => Kind::U16,
            Value::I16(_) => Kind::I16,
            Value::U32(_) => Kind::U32,
            Value::I32(_) => Kind::I32,
            Value::F32(_) => Kind::F32,
            Value::Bool(_) => Kind::Bool,
            Value::String(_) => Kind::String,
            Value::Array(_) => Kind::Array,
            Value::U64(_) => Kind::U64,
            Value::I64(_) => Kind::I64,
            Value::F64(_) => Kind::F64,
        }
    }

    /// What the value is, for a sentence.
    fn noun(&self) -> &'static str {
        match self.kind() {
            Kind::F32 | Kind::F64 => "a float",
            Kind::Bool => "a truth value",
            Kind::String => "a string",
            Kind::Array => "an array",
            _ => "a whole number",
        }
    }

    /// A whole number of any width, or a truth value as 0 or 1.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::I8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            Value::U64(v) => i64::try_from(v).ok(),
            Value::I64(v) => Some(v),
            Value::Bool(v) => Some(v.into()),
            Value::F32(_) | Value::F64(_) | Value::String(_) | Value::Array(_) => None,
        }
    }

    /// A float of either width.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            _ => None,
        }
    }

    /// The bytes of a string.
    pub fn as_bytes(&self) -> Option<&'a [u8]> {
        match *self {
            Value::String(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A string that is UTF-8.
    pub fn as_str(&self) -> Option<&'a str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }
}

/// All metadata of a file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata<'a> {
    /// Sorted by key.
    entries: Vec<(&'a str, Value<'a>)>,
}

impl<'a> Metadata<'a> {
    /// Reads `count` entries.
    pub(super) fn parse(cursor: &mut Cursor<'a>, count: u64) -> Result<Metadata<'a>, GgufError> {
        let mut again = cursor.clone();
        for index in 0..count {
            entry(cursor, index)?;
        }
        // The walk has shown that `count` entries of at least 14 bytes are there.
        let mut entries = Vec::with_capacity(count as usize);
        for index in 0..count {
            entries.push(entry(&mut again, index)?);
        }
        entries.sort_unstable_by_key(|entry| entry.0);
        match entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(GgufError::Duplicate {
                name: pair[0].0.to_owned(),
            }),
            None => Ok(Metadata { entries }),
        }
    }

    /// Every key and value, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &Value<'a>)> {
        self.entries.iter().map(|(key, value)| (*key, value))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        let found = self.entries.binary_search_by(|entry| entry.0.cmp(key)).ok()?;
        Some(&self.entries[found].1)
    }

    /// A whole number that is not negative.
    pub fn integer(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "a whole number", |value| match value {
            Value::U64(v) => Some(*v),
            other => other.as_i64().and_then(|v| u64::try_from(v).ok()),
        })
    }

    /// A float; whole numbers are taken as floats.
    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.typed(key, "a float", |value| {
            value.as_f64().or_else(|| value.as_i64().map(|v| v as f64))
        })
    }

    /// A truth value.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a truth value", |value| value.as_i64().map(|v| v != 0))
    }

    /// A string in UTF-8.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.typed(key, "a text", Value::as_str)
    }

    /// An array of any type.
    pub fn array(&self, key: &str) -> Result<Option<Array<'a>>, GgufError> {
        self.typed(key, "an array", |value| match value {
            Value::Array(array) => Some(*array),
            _ => None,
        })
    }

    /// The value of `key` as `read` takes it: nothing if the key is absent, an error if the type is another.
    fn typed<T>(
        &self,
        key: &str,
        wanted: &'static str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let wrong = || GgufError::WrongType {
            key: key.to_owned(),
            found: value.noun(),
            wanted,
        };
        read(value).map(Some).ok_or_else(wrong)
    }
}

fn entry<'a>(cursor: &mut Cursor<'a>, index: u64) -> Result<(&'a str, Value<'a>), GgufError> {
    let key = cursor
        .string(KEY_MAX, "a metadata key")
        .map_err(|e| e.or(GgufError::Key { index }))?;
    let key = std::str::from_utf8(key)
        .ok()
        .filter(|key| !key.is_empty())
        .ok_or(GgufError::Key { index })?;
    let kind = Kind::read(cursor)?;
    Ok((key, Value::read(cursor, kind, NESTING_MAX)?))
}
