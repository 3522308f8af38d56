//! Metadata of a GGUF file: typed keys and values.
//!
//! Owns the values and their conversions. Does not know any key by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::cursor::Cursor;
use super::error::{GgufError, GgufErrorKind};
use super::limits::{MAX_NAME_BYTES, MAX_STRING_BYTES};

/// Minimum size of an entry: an empty key's length, a value type and one byte.
const MIN_ENTRY_BYTES: u64 = 8 + 4 + 1;

/// One metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `uint8` to `uint64`.
    Unsigned(u64),
    /// `int8` to `int64`.
    Signed(i64),
    /// `float32`.
    F32(f32),
    /// `float64`.
    F64(f64),
    /// `bool`.
    Bool(bool),
    /// `string`.
    String(String),
    /// `array`.
    Array(Array),
}

/// An array value. Each element type has its own vector, so that large arrays stay compact.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the variants are the format's element types")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<String>),
}

impl Value {
    /// The type for a message, with the value of a number or boolean.
    fn describe(&self) -> String {
        match self {
            Self::Unsigned(value) => format!("the integer {value}"),
            Self::Signed(value) => format!("the integer {value}"),
            Self::F32(value) => format!("the float {value}"),
            Self::F64(value) => format!("the float {value}"),
            Self::Bool(value) => format!("the boolean {value}"),
            Self::String(_) => "a string".to_owned(),
            Self::Array(array) => array.describe().to_owned(),
        }
    }

    fn as_i128(&self) -> Option<i128> {
        match *self {
            Self::Unsigned(value) => Some(value.into()),
            Self::Signed(value) => Some(value.into()),
            _ => None,
        }
    }
}

impl Array {
    fn describe(&self) -> &'static str {
        match self {
            Self::F32(_) | Self::F64(_) => "an array of floats",
            Self::Bool(_) => "an array of booleans",
            Self::String(_) => "an array of strings",
            _ => "an array of integers",
        }
    }

    /// The elements as `T`; `None` if they are not integers or one does not fit.
    fn integers<T: TryFrom<i128>>(&self) -> Option<Vec<T>> {
        fn convert<S: Copy + Into<i128>, T: TryFrom<i128>>(values: &[S]) -> Option<Vec<T>> {
            values.iter().map(|&value| T::try_from(value.into()).ok()).collect()
        }
        match self {
            Self::U8(values) => convert(values),
            Self::I8(values) => convert(values),
            Self::U16(values) => convert(values),
            Self::I16(values) => convert(values),
            Self::U32(values) => convert(values),
            Self::I32(values) => convert(values),
            Self::U64(values) => convert(values),
            Self::I64(values) => convert(values),
            Self::F32(_) | Self::F64(_) | Self::Bool(_) | Self::String(_) => None,
        }
    }
}

/// All metadata of one file.
///
/// Every getter has two variants: `x` requires the key, `x_opt` returns `None` if it is absent. Both
/// return an error for another type, with file, key, found and expected type.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    path: PathBuf,
    entries: BTreeMap<String, Value>,
}

macro_rules! getters {
    ($($name:ident, $name_opt:ident, $type:ty, $expected:literal, $convert:expr;)*) => {
        $(
            #[doc = concat!("The value of `key`, ", $expected, ".")]
            ///
            /// # Errors
            /// [`GgufErrorKind::MissingKey`] or [`GgufErrorKind::WrongType`].
            pub fn $name(&self, key: &str) -> Result<$type, GgufError> {
                self.$name_opt(key)?.ok_or_else(|| self.missing(key, $expected))
            }

            #[doc = concat!("The value of `key`, ", $expected, ", if the key is present.")]
            ///
            /// # Errors
            /// [`GgufErrorKind::WrongType`].
            pub fn $name_opt(&self, key: &str) -> Result<Option<$type>, GgufError> {
                let convert: fn(&Value) -> Option<$type> = $convert;
                self.convert(key, $expected, convert)
            }
        )*
    };
}

impl Metadata {
    /// Reads `count` entries.
    pub(super) fn read(
        cursor: &mut Cursor<'_>,
        path: &Path,
        count: u64,
    ) -> Result<Self, GgufErrorKind> {
        cursor.what = format!("the metadata of {count} keys");
        cursor.require_items(count, MIN_ENTRY_BYTES)?;
        let mut entries = BTreeMap::new();
        for index in 0..count {
            cursor.what = format!("metadata entry {index}");
            let key = cursor.string(MAX_NAME_BYTES)?;
            cursor.what = format!("metadata key `{key}`");
            let value = read_value(cursor)?;
            if entries.insert(key, value).is_some() {
                return Err(GgufErrorKind::Duplicate { what: cursor.what.clone() });
            }
        }
        Ok(Self { path: path.to_owned(), entries })
    }

    /// The value of `key`, of any type.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// All keys with their values, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    getters! {
        u32, u32_opt, u32, "an unsigned 32-bit integer",
            |value| value.as_i128().and_then(|value| value.try_into().ok());
        u64, u64_opt, u64, "an unsigned integer",
            |value| value.as_i128().and_then(|value| value.try_into().ok());
        bool, bool_opt, bool, "a boolean", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        };
        f32, f32_opt, f32, "a finite float", |value| match *value {
            Value::F32(value) => Some(value).filter(|value| value.is_finite()),
            Value::F64(value) => Some(value as f32).filter(|value| value.is_finite()),
            _ => None,
        };
        u32_array, u32_array_opt, Vec<u32>, "an array of unsigned 32-bit integers",
            |value| match value {
                Value::Array(array) => array.integers(),
                _ => None,
            };
        i32_array, i32_array_opt, Vec<i32>, "an array of 32-bit integers",
            |value| match value {
                Value::Array(array) => array.integers(),
                _ => None,
            };
        f32_array, f32_array_opt, Vec<f32>, "an array of floats", |value| match value {
            Value::Array(Array::F32(values)) => Some(values.clone()),
            Value::Array(Array::F64(values)) => Some(values.iter().map(|&v| v as f32).collect()),
            _ => None,
        };
    }

    /// The value of `key`, one number or an array with one for each layer; empty if absent.
    ///
    /// # Errors
    /// [`GgufErrorKind::WrongType`].
    pub fn u32_list(&self, key: &str) -> Result<Vec<u32>, GgufError> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(_)) => self.u32_array(key),
            Some(_) => Ok(vec![self.u32(key)?]),
        }
    }

    /// The value of `key`, a string.
    ///
    /// # Errors
    /// [`GgufErrorKind::MissingKey`] or [`GgufErrorKind::WrongType`].
    pub fn string(&self, key: &str) -> Result<&str, GgufError> {
        self.string_opt(key)?.ok_or_else(|| self.missing(key, "a string"))
    }

    /// The value of `key`, a string, if the key is present.
    ///
    /// # Errors
    /// [`GgufErrorKind::WrongType`].
    pub fn string_opt(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.convert(key, "a string", |value| match value {
            Value::String(value) => Some(value.as_str()),
            _ => None,
        })
    }

    /// The value of `key`, an array of strings.
    ///
    /// # Errors
    /// [`GgufErrorKind::MissingKey`] or [`GgufErrorKind::WrongType`].
    pub fn strings(&self, key: &str) -> Result<&[String], GgufError> {
        self.strings_opt(key)?.ok_or_else(|| self.missing(key, "an array of strings"))
    }

    /// The value of `key`, an array of strings, if the key is present.
    ///
    /// # Errors
    /// [`GgufErrorKind::WrongType`].
    pub fn strings_opt(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.convert(key, "an array of strings", |value| match value {
            Value::Array(Array::String(values)) => Some(values.as_slice()),
            _ => None,
        })
    }

    /// An error about `key`, for a caller that checks more than the type of a value.
    #[must_use]
    pub fn invalid(&self, key: &str, problem: impl Into<String>) -> GgufError {
        let what = format!("metadata key `{key}`");
        GgufErrorKind::Invalid { what, problem: problem.into() }.at(&self.path)
    }

    fn missing(&self, key: &str, expected: &'static str) -> GgufError {
        GgufErrorKind::MissingKey { key: key.to_owned(), expected }.at(&self.path)
    }

    fn convert<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.entries.get(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => {
                let (key, found) = (key.to_owned(), value.describe());
                Err(GgufErrorKind::WrongType { key, found, expected }.at(&self.path))
            }
        }
    }
}

fn read_value(cursor: &mut Cursor<'_>) -> Result<Value, GgufErrorKind> {
    // The numbers are `enum gguf_metadata_value_type` of the specification.
    Ok(match cursor.u32()? {
        0 => Value::Unsigned(u8::from_le_bytes(cursor.array()?).into()),
        1 => Value::Signed(i8::from_le_bytes(cursor.array()?).into()),
        2 => Value::Unsigned(u16::from_le_bytes(cursor.array()?).into()),
        3 => Value::Signed(i16::from_le_bytes(cursor.array()?).into()),
        4 => Value::Unsigned(cursor.u32()?.into()),
        5 => Value::Signed(i32::from_le_bytes(cursor.array()?).into()),
        6 => Value::F32(f32::from_le_bytes(cursor.array()?)),
        7 => Value::Bool(read_bool(cursor)?),
        8 => Value::String(cursor.string(MAX_STRING_BYTES)?),
        9 => Value::Array(read_array(cursor)?),
        10 => Value::Unsigned(cursor.u64()?),
        11 => Value::Signed(i64::from_le_bytes(cursor.array()?)),
        12 => Value::F64(f64::from_le_bytes(cursor.array()?)),
        other => return Err(unknown_type(cursor, other)),
    })
}

fn read_array(cursor: &mut Cursor<'_>) -> Result<Array, GgufErrorKind> {
    let element_type = cursor.u32()?;
    let count = cursor.u64()?;
    Ok(match element_type {
        0 => Array::U8(elements(cursor, count, |bytes| u8::from_le_bytes(*bytes))?),
        1 => Array::I8(elements(cursor, count, |bytes| i8::from_le_bytes(*bytes))?),
        2 => Array::U16(elements(cursor, count, |bytes| u16::from_le_bytes(*bytes))?),
        3 => Array::I16(elements(cursor, count, |bytes| i16::from_le_bytes(*bytes))?),
        4 => Array::U32(elements(cursor, count, |bytes| u32::from_le_bytes(*bytes))?),
        5 => Array::I32(elements(cursor, count, |bytes| i32::from_le_bytes(*bytes))?),
        6 => Array::F32(elements(cursor, count, |bytes| f32::from_le_bytes(*bytes))?),
        7 => {
            let len = cursor.require_items(count, 1)?;
            let mut values = Vec::with_capacity(len);
            for _ in 0..len {
                values.push(read_bool(cursor)?);
            }
            Array::Bool(values)
        }
        8 => {
            let len = cursor.require_items(count, 8)?;
            let mut values = Vec::with_capacity(len);
            for _ in 0..len {
                values.push(cursor.string(MAX_STRING_BYTES)?);
            }
            Array::String(values)
        }
        9 => {
            return Err(GgufErrorKind::Invalid {
                what: cursor.what.clone(),
                problem: "an array of arrays, which is not supported".to_owned(),
            });
        }
        10 => Array::U64(elements(cursor, count, |bytes| u64::from_le_bytes(*bytes))?),
        11 => Array::I64(elements(cursor, count, |bytes| i64::from_le_bytes(*bytes))?),
        12 => Array::F64(elements(cursor, count, |bytes| f64::from_le_bytes(*bytes))?),
        other => return Err(unknown_type(cursor, other)),
    })
}

fn elements<T, const N: usize>(
    cursor: &mut Cursor<'_>,
    count: u64,
    convert: fn(&[u8; N]) -> T,
) -> Result<Vec<T>, GgufErrorKind> {
    let len = cursor.require_items(count, N as u64)?;
    let mut values = Vec::with_capacity(len);
    for _ in 0..len {
        values.push(convert(&cursor.array()?));
    }
    Ok(values)
}

fn read_bool(cursor: &mut Cursor<'_>) -> Result<bool, GgufErrorKind> {
    match cursor.array()? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(GgufErrorKind::Invalid {
            what: cursor.what.clone(),
            problem: format!("a boolean is {other}, expected 0 or 1"),
        }),
    }
}

fn unknown_type(cursor: &Cursor<'_>, found: u32) -> GgufErrorKind {
    GgufErrorKind::Invalid {
        what: cursor.what.clone(),
        problem: format!("unknown value type {found}, expected 0 to 12"),
    }
}
