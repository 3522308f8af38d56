//! JSON header of a safetensors file.
//!
//! Owns the checks of names, shapes, types and byte ranges. Does not know the purpose of a tensor.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::dtype::Dtype;
use super::error::SafetensorsErrorKind;
use super::limits::{MAX_DIMENSIONS, MAX_ELEMENTS, MAX_NAME_BYTES, MAX_TENSORS};

/// Name, shape, type and byte range of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, such as `model.norm.weight`.
    pub name: String,
    /// Dimensions, outermost first; none is 0. Empty for a single number.
    pub shape: Vec<usize>,
    /// The type of the elements.
    pub dtype: Dtype,
    /// The position of the first byte in the file.
    pub offset: u64,
    /// The size in the file, in bytes.
    pub bytes: u64,
}

/// An entry of the header.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The entries in the order of the file. A map would keep only the last of two equal names.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if name.len() > MAX_NAME_BYTES {
                        return Err(A::Error::custom(format!(
                            "a tensor's name has {} bytes, more than the {MAX_NAME_BYTES} allowed",
                            name.len()
                        )));
                    }
                    if entries.len() == MAX_TENSORS {
                        return Err(A::Error::custom(format!(
                            "there are more than the {MAX_TENSORS} tensors allowed"
                        )));
                    }
                    let entry = map
                        .next_value::<Entry>()
                        .map_err(|error| A::Error::custom(format!("tensor `{name}`: {error}")))?;
                    entries.push((name, entry));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// Parses and checks the header, and returns the tensors in the order of their bytes.
///
/// The file has `data_bytes` bytes of tensors from `data_start` on.
pub(super) fn parse(
    json: &[u8],
    data_start: u64,
    data_bytes: u64,
) -> Result<Vec<TensorInfo>, SafetensorsErrorKind> {
    if json.first() != Some(&b'{') {
        let problem = "it does not begin with `{`; is this a safetensors file?".to_owned();
        return Err(invalid("the header".to_owned(), problem));
    }
    let Entries(entries) = serde_json::from_slice(json)
        .map_err(|error| invalid("the header".to_owned(), error.to_string()))?;

    let mut names = HashSet::with_capacity(entries.len());
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        if !names.insert(name.clone()) {
            return Err(invalid(format!("tensor `{name}`"), "it appears twice".to_owned()));
        }
        tensors.push(check(name, &entry)?);
    }
    tensors.sort_by_key(|tensor| tensor.offset);
    check_cover(&mut tensors, data_start, data_bytes)?;
    Ok(tensors)
}

/// Checks one entry, whose offset is still relative to the data section.
fn check(name: String, entry: &Entry) -> Result<TensorInfo, SafetensorsErrorKind> {
    let what = || format!("tensor `{name}`");
    let Some(dtype) = Dtype::from_name(&entry.dtype) else {
        let problem = format!("its type `{}` is unknown to this version", entry.dtype);
        return Err(invalid(what(), problem));
    };
    if entry.shape.len() > MAX_DIMENSIONS {
        let problem =
            format!("it has {} dimensions, expected at most {MAX_DIMENSIONS}", entry.shape.len());
        return Err(invalid(what(), problem));
    }
    let mut elements: u64 = 1;
    let mut shape = Vec::with_capacity(entry.shape.len());
    for &dimension in &entry.shape {
        if dimension == 0 {
            return Err(invalid(what(), "one of its dimensions is 0".to_owned()));
        }
        elements = elements.saturating_mul(dimension);
        // Saturating arithmetic keeps an absurd product above the limit, so it is refused here.
        let fits = usize::try_from(dimension).ok().filter(|_| elements <= MAX_ELEMENTS);
        let Some(dimension) = fits else {
            return Err(SafetensorsErrorKind::TooLarge {
                what: format!("the number of elements of {}", what()),
                found: elements,
                limit: MAX_ELEMENTS,
            });
        };
        shape.push(dimension);
    }
    let bits = elements * dtype.bits();
    let (begin, end) = entry.data_offsets;
    let bytes = end.checked_sub(begin);
    let expected = bits / 8;
    if !bits.is_multiple_of(8) || bytes != Some(expected) {
        let problem = format!(
            "its data offsets are {begin}..{end}, but {:?} elements of {dtype} take {expected} \
             bytes",
            entry.shape
        );
        return Err(invalid(what(), problem));
    }
    Ok(TensorInfo { name, shape, dtype, offset: begin, bytes: expected })
}

/// Checks that the tensors cover the data section without gap or overlap.
///
/// By overlapping tensors a small file could claim far more data than it holds. A gap could hide
/// anything.
fn check_cover(
    tensors: &mut [TensorInfo],
    data_start: u64,
    data_bytes: u64,
) -> Result<(), SafetensorsErrorKind> {
    let mut next = 0;
    for tensor in tensors {
        let what = format!("tensor `{}`", tensor.name);
        if tensor.offset != next {
            let problem = format!(
                "its data begins at {}, expected {next}, where the tensor before it ends",
                tensor.offset
            );
            return Err(invalid(what, problem));
        }
        // No overflow: the sum so far lies within the file, and one tensor's size is limited.
        next += tensor.bytes;
        tensor.offset = data_start.saturating_add(tensor.offset);
        if next > data_bytes {
            return Err(SafetensorsErrorKind::Truncated {
                what,
                start: tensor.offset,
                end: data_start.saturating_add(next),
                file_bytes: data_start.saturating_add(data_bytes),
            });
        }
    }
    if next != data_bytes {
        let problem = format!("they end at byte {next}, but the file has {data_bytes} of data");
        return Err(invalid("the tensors".to_owned(), problem));
    }
    Ok(())
}

fn invalid(what: String, problem: String) -> SafetensorsErrorKind {
    SafetensorsErrorKind::Invalid { what, problem }
}
