//! Dequantization of ggml's element types into plain memory.
//!
//! Owns the arithmetic only: bytes in, numbers out. Does not know files, names or threads.
//! Sources: ggml's `ggml-common.h` (block structs) and `ggml-quants.c`
//! (`dequantize_row_q4_0` and its like); MLX's affine quantisation (`mlx.core.quantize`).

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

use super::tensor::{Floats, HostData};
use ingle_formats::gguf::GgmlType;

/// Values of a ggml block that share one scale; MLX's group has the same size.
const GROUP: usize = 32;

/// A value or scale that is NaN, infinite, or not representable after conversion.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("the {what} of element {element} is {value}, expected a finite number")]
pub struct BadNumber {
    /// `value`, `scale` or `bias`.
    pub what: &'static str,
    /// Index of the element, or of the first element of the block, in row-major order.
    pub element: usize,
    /// What was found.
    pub value: f32,
}

/// Takes a tensor's stored bytes piece by piece and gives its elements.
#[derive(Debug)]
pub struct Converter {
    ggml_type: GgmlType,
    elements_done: usize,
    out: Out,
}

/// What has been converted so far.
#[derive(Debug)]
enum Out {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Bf16(Vec<u16>),
    Quantized { bits: u8, packed: Vec<u32>, scales: Vec<u16>, biases: Vec<u16> },
}

impl Converter {
    /// A converter for `elements` elements of a readable type, to 32-bit floats or, where
    /// `to_f32` is false, to the memory layout nearest to the stored one. `None` when the type is
    /// not readable or the memory is not there.
    #[must_use]
    pub fn new(ggml_type: GgmlType, elements: usize, to_f32: bool) -> Option<Self> {
        if !ggml_type.is_readable() {
            return None;
        }
        let out = if to_f32 || ggml_type == GgmlType::F32 {
            Out::F32(reserve(elements)?)
        } else if ggml_type == GgmlType::F16 {
            Out::F16(reserve(elements)?)
        } else if ggml_type == GgmlType::BF16 {
            Out::Bf16(reserve(elements)?)
        } else {
            let bits = if ggml_type == GgmlType::Q8_0 { 8 } else { 4 };
            Out::Quantized {
                bits,
                packed: reserve(elements / 32 * usize::from(bits))?,
                scales: reserve(elements / GROUP)?,
                biases: reserve(elements / GROUP)?,
            }
        };
        Some(Self { ggml_type, elements_done: 0, out })
    }

    /// Converts whole blocks; a rest shorter than a block is ignored.
    ///
    /// # Errors
    /// [`BadNumber`] at the first value or scale that is not finite.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), BadNumber> {
        let kind = self.ggml_type;
        let done = self.elements_done;
        let result = match &mut self.out {
            Out::F32(out) if kind == GgmlType::F32 => push_f32(bytes, out),
            Out::F32(out) if kind == GgmlType::F16 => push_f16_as_f32(bytes, out),
            Out::F32(out) if kind == GgmlType::BF16 => push_bf16_as_f32(bytes, out),
            Out::F32(out) if kind == GgmlType::Q8_0 => push_q8_0_as_f32(bytes, out),
            Out::F32(out) if kind == GgmlType::Q4_0 => push_q4_0_as_f32(bytes, out),
            Out::F32(out) => push_q4_1_as_f32(bytes, out),
            Out::F16(out) => push_half(bytes, out, |bits| f16::from_bits(bits).to_f32()),
            Out::Bf16(out) => push_half(bytes, out, |bits| bf16::from_bits(bits).to_f32()),
            Out::Quantized { packed, scales, biases, .. } if kind == GgmlType::Q8_0 => {
                repack_q8_0(bytes, packed, scales, biases)
            }
            Out::Quantized { packed, scales, biases, .. } if kind == GgmlType::Q4_0 => {
                repack_q4_0(bytes, packed, scales, biases)
            }
            Out::Quantized { packed, scales, biases, .. } => {
                repack_q4_1(bytes, packed, scales, biases)
            }
        };
        self.elements_done += bytes.len() / kind.block_bytes() * kind.block_elements();
        result.map_err(|bad| BadNumber { element: bad.element + done, ..bad })
    }

    /// The elements converted so far.
    #[must_use]
    pub fn finish(self) -> HostData {
        match self.out {
            Out::F32(values) => HostData::F32(values),
            Out::F16(values) => HostData::F16(values),
            Out::Bf16(values) => HostData::Bf16(values),
            Out::Quantized { bits, packed, scales, biases } => HostData::Quantized {
                bits,
                group_size: GROUP,
                packed,
                scales: Floats::F16(scales),
                biases: Floats::F16(biases),
            },
        }
    }
}

/// Room for `len` values; `None` when the memory is not there.
pub(super) fn reserve<T>(len: usize) -> Option<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).ok()?;
    Some(values)
}

/// Finds the first value that is not finite, given that there is one in `values`.
fn first_bad(values: impl IntoIterator<Item = f32>) -> Result<(), BadNumber> {
    match values.into_iter().enumerate().find(|(_, value)| !value.is_finite()) {
        Some((element, value)) => Err(BadNumber { what: "value", element, value }),
        None => Ok(()),
    }
}

fn push_f32(bytes: &[u8], out: &mut Vec<f32>) -> Result<(), BadNumber> {
    let start = out.len();
    out.extend(bytes.as_chunks().0.iter().map(|&chunk| f32::from_le_bytes(chunk)));
    first_bad(out[start..].iter().copied())
}

fn push_f16_as_f32(bytes: &[u8], out: &mut Vec<f32>) -> Result<(), BadNumber> {
    let start = out.len();
    let bits: Vec<u16> =
        bytes.as_chunks().0.iter().map(|&chunk| u16::from_le_bytes(chunk)).collect();
    out.resize(start + bits.len(), 0.0);
    // The slice method uses the processor's conversion instructions where it has them.
    bits.reinterpret_cast::<f16>().convert_to_f32_slice(&mut out[start..]);
    first_bad(out[start..].iter().copied())
}

fn push_bf16_as_f32(bytes: &[u8], out: &mut Vec<f32>) -> Result<(), BadNumber> {
    let start = out.len();
    let widen = |&chunk: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(chunk)) << 16);
    out.extend(bytes.as_chunks().0.iter().map(widen));
    first_bad(out[start..].iter().copied())
}

fn push_half(bytes: &[u8], out: &mut Vec<u16>, widen: fn(u16) -> f32) -> Result<(), BadNumber> {
    let start = out.len();
    out.extend(bytes.as_chunks().0.iter().map(|&chunk| u16::from_le_bytes(chunk)));
    first_bad(out[start..].iter().map(|&bits| widen(bits)))
}

/// A half-precision number at the start of a block, refused unless finite.
fn half_at(block: &[u8], at: usize, what: &'static str, element: usize) -> Result<f16, BadNumber> {
    let value = f16::from_le_bytes([block[at], block[at + 1]]);
    if value.is_finite() {
        Ok(value)
    } else {
        Err(BadNumber { what, element, value: value.to_f32() })
    }
}

fn push_q8_0_as_f32(bytes: &[u8], out: &mut Vec<f32>) -> Result<(), BadNumber> {
    for (index, block) in bytes.as_chunks::<34>().0.iter().enumerate() {
        let d = half_at(block, 0, "scale", index * GROUP)?.to_f32();
        let mut values = [0.0; GROUP];
        for (value, &q) in values.iter_mut().zip(&block[2..]) {
            *value = d * f32::from(q as i8);
        }
        out.extend_from_slice(&values);
    }
    Ok(())
}

fn push_q4_0_as_f32(bytes: &[u8], out: &mut Vec<f32>) -> Result<(), BadNumber> {
    for (index, block) in bytes.as_chunks::<18>().0.iter().enumerate() {
        let d = half_at(block, 0, "scale", index * GROUP)?.to_f32();
        let mut values = [0.0; GROUP];
        // Low nibbles are the block's first half, high nibbles its second.
        let (low, high) = values.split_at_mut(GROUP / 2);
        for ((low, high), &q) in low.iter_mut().zip(high).zip(&block[2..]) {
            *low = d * (f32::from(q & 15) - 8.0);
            *high = d * (f32::from(q >> 4) - 8.0);
        }
        out.extend_from_slice(&values);
    }
    Ok(())
}

fn push_q4_1_as_f32(bytes: &[u8], out: &mut Vec<f32>) -> Result<(), BadNumber> {
    for (index, block) in bytes.as_chunks::<20>().0.iter().enumerate() {
        let d = half_at(block, 0, "scale", index * GROUP)?.to_f32();
        let m = half_at(block, 2, "bias", index * GROUP)?.to_f32();
        let mut values = [0.0; GROUP];
        let (low, high) = values.split_at_mut(GROUP / 2);
        for ((low, high), &q) in low.iter_mut().zip(high).zip(&block[4..]) {
            *low = d * f32::from(q & 15) + m;
            *high = d * f32::from(q >> 4) + m;
        }
        out.extend_from_slice(&values);
    }
    Ok(())
}

/// `factor * d`, exact but for overflow, which is refused.
fn scaled_bias(d: f16, factor: f32, element: usize) -> Result<u16, BadNumber> {
    let bias = f16::from_f32(d.to_f32() * factor);
    if bias.is_finite() {
        Ok(bias.to_bits())
    } else {
        Err(BadNumber { what: "bias", element, value: bias.to_f32() })
    }
}

/// Packs a block's 16 bytes of nibbles into MLX's order: eight consecutive values to a word, the
/// first in the lowest bits.
fn pack_nibbles(nibbles: &[u8], packed: &mut Vec<u32>) {
    for shift in [0, 4] {
        for eight in nibbles.as_chunks::<8>().0 {
            let mut word = 0;
            for (position, &byte) in eight.iter().enumerate() {
                word |= u32::from((byte >> shift) & 15) << (4 * position);
            }
            packed.push(word);
        }
    }
}

fn repack_q4_0(
    bytes: &[u8],
    packed: &mut Vec<u32>,
    scales: &mut Vec<u16>,
    biases: &mut Vec<u16>,
) -> Result<(), BadNumber> {
    for (index, block) in bytes.as_chunks::<18>().0.iter().enumerate() {
        let d = half_at(block, 0, "scale", index * GROUP)?;
        scales.push(d.to_bits());
        biases.push(scaled_bias(d, -8.0, index * GROUP)?);
        pack_nibbles(&block[2..], packed);
    }
    Ok(())
}

fn repack_q4_1(
    bytes: &[u8],
    packed: &mut Vec<u32>,
    scales: &mut Vec<u16>,
    biases: &mut Vec<u16>,
) -> Result<(), BadNumber> {
    for (index, block) in bytes.as_chunks::<20>().0.iter().enumerate() {
        scales.push(half_at(block, 0, "scale", index * GROUP)?.to_bits());
        biases.push(half_at(block, 2, "bias", index * GROUP)?.to_bits());
        pack_nibbles(&block[4..], packed);
    }
    Ok(())
}

fn repack_q8_0(
    bytes: &[u8],
    packed: &mut Vec<u32>,
    scales: &mut Vec<u16>,
    biases: &mut Vec<u16>,
) -> Result<(), BadNumber> {
    for (index, block) in bytes.as_chunks::<34>().0.iter().enumerate() {
        let d = half_at(block, 0, "scale", index * GROUP)?;
        scales.push(d.to_bits());
        biases.push(scaled_bias(d, -128.0, index * GROUP)?);
        for four in block[2..].as_chunks::<4>().0 {
            // Flipping the top bit adds 128 to a signed byte.
            packed.push(u32::from_le_bytes(*four) ^ 0x8080_8080);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(kind: GgmlType, bytes: &[u8], to_f32: bool) -> Result<HostData, BadNumber> {
        let elements = bytes.len() / kind.block_bytes() * kind.block_elements();
        let mut converter = Converter::new(kind, elements, to_f32).expect("a readable type");
        converter.push(bytes)?;
        Ok(converter.finish())
    }

    fn floats(data: HostData) -> Vec<f32> {
        match data {
            HostData::F32(values) => values,
            other => panic!("not floats: {other:?}"),
        }
    }

    /// What MLX computes from the triplet: `w = scale * q + bias`.
    fn dequantize(data: &HostData) -> Vec<f32> {
        let HostData::Quantized {
            bits,
            group_size,
            packed,
            scales: Floats::F16(scales),
            biases: Floats::F16(biases),
        } = data
        else {
            panic!("not quantised: {data:?}")
        };
        let per_word = 32 / usize::from(*bits);
        (0..packed.len() * per_word)
            .map(|i| {
                let mask = (1_u32 << bits) - 1;
                let q = (packed[i / per_word] >> (usize::from(*bits) * (i % per_word))) & mask;
                let scale = f16::from_bits(scales[i / group_size]).to_f32();
                scale * q as f32 + f16::from_bits(biases[i / group_size]).to_f32()
            })
            .collect()
    }

    /// Two blocks of the type with distinct values and the numbers they stand for.
    fn blocks(kind: GgmlType) -> (Vec<u8>, Vec<f32>) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for (d, m) in [(0.5_f32, -3.0_f32), (-0.25, 1.5)] {
            bytes.extend(f16::from_f32(d).to_le_bytes());
            if kind == GgmlType::Q8_0 {
                for i in 0..32_i32 {
                    let q = (i * 8 - 128) as i8;
                    bytes.push(q as u8);
                    expected.push(d * f32::from(q));
                }
                continue;
            }
            let offset = if kind == GgmlType::Q4_1 {
                bytes.extend(f16::from_f32(m).to_le_bytes());
                m
            } else {
                -8.0 * d
            };
            let q = |i: usize| ((i * 7 + i / 16) % 16) as u8;
            bytes.extend((0..16).map(|i| q(i) | (q(i + 16) << 4)));
            expected.extend((0..32).map(|i| d * f32::from(q(i)) + offset));
        }
        (bytes, expected)
    }

    #[test]
    fn quantized_blocks_match_ggml_in_both_layouts() {
        for kind in [GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::Q4_1] {
            let (bytes, expected) = blocks(kind);
            assert_eq!(floats(convert(kind, &bytes, true).unwrap()), expected, "{kind}");
            let stored = convert(kind, &bytes, false).unwrap();
            assert_eq!(dequantize(&stored), expected, "{kind}");
        }
    }

    #[test]
    fn floats_keep_their_bits_or_are_widened() {
        let values = [1.0_f32, -0.375, 65_504.0, 0.0];
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(convert(GgmlType::F32, &bytes, false).unwrap(), HostData::F32(values.into()));

        let bytes: Vec<u8> = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        let bits = values.iter().map(|&value| f16::from_f32(value).to_bits()).collect();
        assert_eq!(convert(GgmlType::F16, &bytes, false).unwrap(), HostData::F16(bits));
        assert_eq!(floats(convert(GgmlType::F16, &bytes, true).unwrap()), values);

        let values = [1.0_f32, -0.375, 3.0e38, 0.0].map(bf16::from_f32);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let bits = values.iter().map(|value| value.to_bits()).collect();
        assert_eq!(convert(GgmlType::BF16, &bytes, false).unwrap(), HostData::Bf16(bits));
        assert_eq!(
            floats(convert(GgmlType::BF16, &bytes, true).unwrap()),
            values.map(|value| value.to_f32())
        );
    }

    #[test]
    fn non_finite_numbers_are_refused_with_index() {
        for to_f32 in [false, true] {
            for kind in [GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::Q4_1] {
                for bad in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY] {
                    let (mut bytes, _) = blocks(kind);
                    let second = bytes.len() / 2;
                    bytes[second..second + 2].copy_from_slice(&bad.to_le_bytes());
                    let error = convert(kind, &bytes, to_f32).unwrap_err();
                    assert_eq!((error.what, error.element), ("scale", 32));
                }
            }
            for (kind, bytes) in [
                (GgmlType::F32, f32::NAN.to_le_bytes().to_vec()),
                (GgmlType::F16, f16::INFINITY.to_le_bytes().to_vec()),
                (GgmlType::BF16, bf16::NAN.to_le_bytes().to_vec()),
            ] {
                let bytes = [vec![0; bytes.len() * 3], bytes].concat();
                let error = convert(kind, &bytes, to_f32).unwrap_err();
                assert_eq!((error.what, error.element), ("value", 3));
            }
        }
        // A scale of 600 is sound, but 128 times as much does not fit half precision.
        let mut block = f16::from_f32(600.0).to_le_bytes().to_vec();
        block.extend([0; 32]);
        assert!(convert(GgmlType::Q8_0, &block, true).is_ok());
        assert_eq!(convert(GgmlType::Q8_0, &block, false).unwrap_err().what, "bias");
    }

    #[test]
    fn pieces_give_the_same_as_the_whole() {
        let (bytes, expected) = blocks(GgmlType::Q4_1);
        let mut converter = Converter::new(GgmlType::Q4_1, 64, true).unwrap();
        converter.push(&bytes[..20]).unwrap();
        converter.push(&bytes[20..]).unwrap();
        assert_eq!(floats(converter.finish()), expected);
    }

    #[test]
    fn other_types_have_no_converter() {
        let q4_k = GgmlType::from_id(12).unwrap();
        assert!(Converter::new(q4_k, 256, true).is_none());
        assert!(Converter::new(GgmlType::F32, usize::MAX / 4, true).is_none());
    }
}
