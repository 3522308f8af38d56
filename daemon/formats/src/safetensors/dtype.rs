//! Element types of safetensors: names and sizes.
//!
//! Owns the table only. Does not know which types an engine reads. Source: `enum Dtype` of the crate
//! `safetensors`.

use std::fmt;

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dtype(&'static Row);

#[derive(Debug, PartialEq, Eq)]
struct Row {
    name: &'static str,
    bits: u64,
}

const fn row(name: &'static str, bits: u64) -> Row {
    Row { name, bits }
}

static F32: Row = row("F32", 32);
static F16: Row = row("F16", 16);
static BF16: Row = row("BF16", 16);
static U32: Row = row("U32", 32);

/// Types known by name only, so that an error can name the type in the file.
static OTHERS: &[Row] = &[
    row("BOOL", 8),
    row("F4", 4),
    row("F6_E2M3", 6),
    row("F6_E3M2", 6),
    row("U8", 8),
    row("I8", 8),
    row("F8_E5M2", 8),
    row("F8_E4M3", 8),
    row("F8_E8M0", 8),
    row("F8_E4M3FNUZ", 8),
    row("F8_E5M2FNUZ", 8),
    row("I16", 16),
    row("U16", 16),
    row("I32", 32),
    row("C64", 64),
    row("F64", 64),
    row("I64", 64),
    row("U64", 64),
];

impl Dtype {
    /// 32-bit floats.
    pub const F32: Self = Self(&F32);
    /// IEEE half precision.
    pub const F16: Self = Self(&F16);
    /// bfloat16.
    pub const BF16: Self = Self(&BF16);
    /// Unsigned 32-bit integers, into which MLX packs quantized values.
    pub const U32: Self = Self(&U32);

    /// The type with this name; `None` if the table lacks it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::F32, Self::F16, Self::BF16, Self::U32]
            .into_iter()
            .find(|known| known.0.name == name)
            .or_else(|| OTHERS.iter().find(|row| row.name == name).map(Self))
    }

    /// The format's name, such as `BF16`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Size of one element, in bits.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0.bits
    }

    /// Whether it is one of the floating-point types of weights.
    #[must_use]
    pub fn is_float(self) -> bool {
        [Self::F32, Self::F16, Self::BF16].contains(&self)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
