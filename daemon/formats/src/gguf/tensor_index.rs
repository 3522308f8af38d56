//! Tensor index of a GGUF file.
//!
//! Owns the checks of names, shapes and byte ranges. Does not know the purpose of a tensor.

use std::collections::HashSet;

use super::cursor::Cursor;
use super::error::GgufErrorKind;
use super::ggml_type::GgmlType;
use super::limits::{MAX_DIMENSIONS, MAX_ELEMENTS, MAX_NAME_BYTES};

/// Minimum size of an entry: name length, dimension count, one dimension, type, offset.
const MIN_ENTRY_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

/// Name, shape, type and byte range of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Dimensions, outermost first (the reverse of ggml's order); none is 0.
    pub shape: Vec<usize>,
    /// The type of the elements.
    pub ggml_type: GgmlType,
    /// The position of the first byte in the file.
    pub offset: u64,
    /// The size in the file, in bytes.
    pub bytes: u64,
}

impl TensorInfo {
    /// The number of elements: the product of the dimensions.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Reads `count` entries and resolves their offsets.
///
/// The data section, to which offsets are relative, begins at the next multiple of `alignment`.
pub(super) fn read(
    cursor: &mut Cursor<'_>,
    count: u64,
    alignment: u64,
    file_bytes: u64,
) -> Result<Vec<TensorInfo>, GgufErrorKind> {
    cursor.what = format!("the index of {count} tensors");
    let len = cursor.require_items(count, MIN_ENTRY_BYTES)?;
    let mut tensors = Vec::with_capacity(len);
    let mut names = HashSet::with_capacity(len);
    for index in 0..len {
        cursor.what = format!("tensor entry {index}");
        let tensor = read_entry(cursor, alignment)?;
        if !names.insert(tensor.name.clone()) {
            return Err(GgufErrorKind::Duplicate { what: cursor.what.clone() });
        }
        tensors.push(tensor);
    }

    // A power of two up to 2^20, and a position within the header limit: no overflow.
    let data_start = cursor.position().next_multiple_of(alignment);
    for tensor in &mut tensors {
        let what = || format!("tensor `{}`", tensor.name);
        let start = data_start.checked_add(tensor.offset);
        let end = start.and_then(|start| start.checked_add(tensor.bytes));
        let (Some(start), Some(end)) = (start, end) else {
            return Err(invalid(what(), format!("its offset {} overflows", tensor.offset)));
        };
        if end > file_bytes {
            return Err(GgufErrorKind::Truncated { what: what(), start, end, file_bytes });
        }
        tensor.offset = start;
    }
    refuse_overlap(&tensors)?;
    Ok(tensors)
}

/// Reads one entry, whose offset is still relative to the data section.
fn read_entry(cursor: &mut Cursor<'_>, alignment: u64) -> Result<TensorInfo, GgufErrorKind> {
    let name = cursor.string(MAX_NAME_BYTES)?;
    cursor.what = format!("tensor `{name}`");
    let dimensions = cursor.u32()?;
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        let problem = format!("it has {dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}");
        return Err(invalid(cursor.what.clone(), problem));
    }
    let mut shape = Vec::with_capacity(dimensions as usize);
    let mut elements: u64 = 1;
    for _ in 0..dimensions {
        let dimension = cursor.u64()?;
        if dimension == 0 {
            return Err(invalid(cursor.what.clone(), "one of its dimensions is 0".to_owned()));
        }
        elements = elements.saturating_mul(dimension);
        // Saturating arithmetic keeps an absurd product above the limit, so it is refused here.
        let fits = usize::try_from(dimension).ok().filter(|_| elements <= MAX_ELEMENTS);
        let Some(dimension) = fits else {
            return Err(GgufErrorKind::TooLarge {
                what: format!("the number of elements of {}", cursor.what),
                found: elements,
                limit: MAX_ELEMENTS,
            });
        };
        shape.push(dimension);
    }
    shape.reverse();

    let type_id = cursor.u32()?;
    let Some(ggml_type) = GgmlType::from_id(type_id) else {
        let problem = format!("its ggml type {type_id} is unknown to this version");
        return Err(invalid(cursor.what.clone(), problem));
    };
    let row = shape.last().copied().unwrap_or(1);
    let block = ggml_type.block_elements();
    if !row.is_multiple_of(block) {
        let problem =
            format!("its rows have {row} elements, not a multiple of the {block} of {ggml_type}");
        return Err(invalid(cursor.what.clone(), problem));
    }
    let bytes = elements / block as u64 * ggml_type.block_bytes() as u64;
    let offset = cursor.u64()?;
    if !offset.is_multiple_of(alignment) {
        let problem = format!("its offset {offset} is not a multiple of the alignment {alignment}");
        return Err(invalid(cursor.what.clone(), problem));
    }
    Ok(TensorInfo { name, shape, ggml_type, offset, bytes })
}

/// Refuses overlapping tensors, by which a small file could claim far more data than it holds.
fn refuse_overlap(tensors: &[TensorInfo]) -> Result<(), GgufErrorKind> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.offset);
    for pair in order.windows(2) {
        let [first, second] = pair else { continue };
        if first.offset + first.bytes > second.offset {
            let problem = format!("it overlaps tensor `{}`", first.name);
            return Err(invalid(format!("tensor `{}`", second.name), problem));
        }
    }
    Ok(())
}

fn invalid(what: String, problem: String) -> GgufErrorKind {
    GgufErrorKind::Invalid { what, problem }
}
