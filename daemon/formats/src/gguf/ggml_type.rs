//! Element types of ggml: ids, names and block sizes.
//!
//! Owns the table only. Does not know files or conversions. Source: `enum ggml_type` and the block
//! structs in ggml's `ggml.h` and `ggml-common.h`.

use std::fmt;

/// Type of a tensor's elements. Quantized types store blocks of several elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GgmlType(&'static Row);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Row {
    id: u32,
    name: &'static str,
    block_elements: u32,
    block_bytes: u32,
}

const fn row(id: u32, name: &'static str, block_elements: u32, block_bytes: u32) -> Row {
    Row { id, name, block_elements, block_bytes }
}

static F32: Row = row(0, "F32", 1, 4);
static F16: Row = row(1, "F16", 1, 2);
static Q4_0: Row = row(2, "Q4_0", 32, 18);
static Q4_1: Row = row(3, "Q4_1", 32, 20);
static Q8_0: Row = row(8, "Q8_0", 32, 34);
static BF16: Row = row(30, "BF16", 1, 2);

/// Types known by name only, so that an error can name the type in the file.
static OTHERS: &[Row] = &[
    row(6, "Q5_0", 32, 22),
    row(7, "Q5_1", 32, 24),
    row(9, "Q8_1", 32, 36),
    row(10, "Q2_K", 256, 84),
    row(11, "Q3_K", 256, 110),
    row(12, "Q4_K", 256, 144),
    row(13, "Q5_K", 256, 176),
    row(14, "Q6_K", 256, 210),
    row(15, "Q8_K", 256, 292),
    row(16, "IQ2_XXS", 256, 66),
    row(17, "IQ2_XS", 256, 74),
    row(18, "IQ3_XXS", 256, 98),
    row(19, "IQ1_S", 256, 50),
    row(20, "IQ4_NL", 32, 18),
    row(21, "IQ3_S", 256, 110),
    row(22, "IQ2_S", 256, 82),
    row(23, "IQ4_XS", 256, 136),
    row(24, "I8", 1, 1),
    row(25, "I16", 1, 2),
    row(26, "I32", 1, 4),
    row(27, "I64", 1, 8),
    row(28, "F64", 1, 8),
    row(29, "IQ1_M", 256, 56),
    row(34, "TQ1_0", 256, 54),
    row(35, "TQ2_0", 256, 66),
    row(39, "MXFP4", 32, 17),
    row(40, "NVFP4", 64, 36),
    row(41, "Q1_0", 128, 18),
    row(42, "Q2_0", 64, 18),
];

impl GgmlType {
    /// 32-bit floats.
    pub const F32: Self = Self(&F32);
    /// IEEE half precision.
    pub const F16: Self = Self(&F16);
    /// bfloat16.
    pub const BF16: Self = Self(&BF16);
    /// 32 values: a half-precision scale `d`, then 4-bit `q`; `w = d (q - 8)`.
    pub const Q4_0: Self = Self(&Q4_0);
    /// 32 values: half-precision `d` and `m`, then 4-bit `q`; `w = d q + m`.
    pub const Q4_1: Self = Self(&Q4_1);
    /// 32 values: a half-precision scale `d`, then signed bytes `q`; `w = d q`.
    pub const Q8_0: Self = Self(&Q8_0);

    /// The types whose elements the loader can read.
    pub const READABLE: [Self; 6] =
        [Self::F32, Self::F16, Self::BF16, Self::Q8_0, Self::Q4_0, Self::Q4_1];

    /// The type with ggml's number `id`; `None` if the table lacks it.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        Self::READABLE
            .into_iter()
            .find(|known| known.0.id == id)
            .or_else(|| OTHERS.iter().find(|row| row.id == id).map(Self))
    }

    /// ggml's number of the type.
    #[must_use]
    pub fn id(self) -> u32 {
        self.0.id
    }

    /// ggml's name, such as `Q4_K`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Number of elements in one block; 1 for types that are not quantized.
    #[must_use]
    pub fn block_elements(self) -> usize {
        self.0.block_elements as usize
    }

    /// Size of one block, in bytes.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        self.0.block_bytes as usize
    }

    /// Whether the loader can read elements of this type.
    #[must_use]
    pub fn is_readable(self) -> bool {
        Self::READABLE.contains(&self)
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_are_unique() {
        let mut rows: Vec<_> = (0..200).filter_map(GgmlType::from_id).collect();
        assert_eq!(rows.len(), OTHERS.len() + GgmlType::READABLE.len());
        rows.sort_by_key(|kind| kind.name());
        rows.dedup_by_key(|kind| kind.name());
        assert_eq!(rows.len(), OTHERS.len() + GgmlType::READABLE.len());
    }

    #[test]
    fn unknown_ids_have_no_type() {
        // 4 and 5 were Q4_2 and Q4_3, which ggml has removed.
        for id in [4, 5, 31, 36, u32::MAX] {
            assert_eq!(GgmlType::from_id(id), None);
        }
        assert_eq!(GgmlType::from_id(12).map(GgmlType::name), Some("Q4_K"));
    }
}
