//! The half-precision types and accessors that mlx-c's headers declare on arm64 only.
//!
//! MLX itself stores both types as 16 bits everywhere, so the accessors read them as `uint16`.
//! That is a read of the raw bits: MLX does not convert here.

use crate::{mlx_array, mlx_array_data_uint16, mlx_array_item_uint16};
use std::ffi::c_int;

/// IEEE 754 half precision, as raw bits. A struct, unlike [`bfloat16_t`], so that the two stay
/// distinct types, as they are on arm64.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default)]
pub struct float16_t(pub u16);

/// bfloat16, as raw bits.
pub type bfloat16_t = u16;

/// Reads the one element of a float16 array into `res`; returns 0 on success.
///
/// # Safety
/// As [`mlx_array_item_uint16`]: `res` must be valid for a write and `arr` a live array.
pub unsafe fn mlx_array_item_float16(res: *mut float16_t, arr: mlx_array) -> c_int {
    // SAFETY: float16_t is a transparent u16; the caller vouches for both arguments.
    unsafe { mlx_array_item_uint16(res.cast(), arr) }
}

/// Reads the one element of a bfloat16 array into `res`; returns 0 on success.
///
/// # Safety
/// As [`mlx_array_item_uint16`]: `res` must be valid for a write and `arr` a live array.
pub unsafe fn mlx_array_item_bfloat16(res: *mut bfloat16_t, arr: mlx_array) -> c_int {
    // SAFETY: bfloat16_t is u16; the caller vouches for both arguments.
    unsafe { mlx_array_item_uint16(res, arr) }
}

/// The data of an evaluated float16 array.
///
/// # Safety
/// As [`mlx_array_data_uint16`]: `arr` must be a live array.
pub unsafe fn mlx_array_data_float16(arr: mlx_array) -> *const float16_t {
    // SAFETY: float16_t is a transparent u16; the caller vouches for the array.
    unsafe { mlx_array_data_uint16(arr).cast() }
}

/// The data of an evaluated bfloat16 array.
///
/// # Safety
/// As [`mlx_array_data_uint16`]: `arr` must be a live array.
pub unsafe fn mlx_array_data_bfloat16(arr: mlx_array) -> *const bfloat16_t {
    // SAFETY: bfloat16_t is u16; the caller vouches for the array.
    unsafe { mlx_array_data_uint16(arr) }
}
