//! Dequantization of MLX's affine format.
//!
//! Owns the arithmetic only: packed words in, numbers out. Does not know files or names. Source:
//! `mlx.core.dequantize`: `w = scale * q + bias`, with `32 / bits` values to a word, the first in
//! the lowest bits.

/// Appends the numbers that `packed` stands for: whole groups of `group_size` values of `bits` (4
/// or 8), little-endian, one scale and bias a group. A rest shorter than a group is ignored.
pub fn dequantize(
    packed: &[u8],
    bits: u8,
    group_size: usize,
    scales: &[f32],
    biases: &[f32],
    out: &mut Vec<f32>,
) {
    let group_bytes = group_size * usize::from(bits) / 8;
    for ((group, scale), bias) in packed.chunks_exact(group_bytes).zip(scales).zip(biases) {
        if bits == 8 {
            out.extend(group.iter().map(|&q| scale * f32::from(q) + bias));
        } else {
            // Little-endian words with the first value in the lowest bits: low nibbles come first.
            for &pair in group {
                out.push(scale * f32::from(pair & 15) + bias);
                out.push(scale * f32::from(pair >> 4) + bias);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_unpacked_lowest_bits_first() {
        let words: Vec<u8> =
            [0x7654_3210_u32, 0xFEDC_BA98].iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut out = Vec::new();
        dequantize(&words, 4, 8, &[2.0, 0.5], &[-1.0, 1.0], &mut out);
        let first = (0..8).map(|q| 2.0 * q as f32 - 1.0);
        let second = (8..16).map(|q| 0.5 * q as f32 + 1.0);
        assert_eq!(out, first.chain(second).collect::<Vec<_>>());
        let mut out = Vec::new();
        dequantize(&[0, 1, 128, 255], 8, 4, &[0.25], &[-32.0], &mut out);
        assert_eq!(out, [-32.0, -31.75, 0.0, 31.75]);
    }
}
