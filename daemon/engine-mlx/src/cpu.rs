//! Ingle's own CPU operations as MLX graph operations (`packaging/mlx-sys/cpu`).
//!
//! Owns the foreign calls. They exist because MLX has no vector code for x86; each takes float32
//! arrays only and runs on the CPU only. What they compute is written in `ingle_cpu.h`.

use mlx_rs::{Array, Dtype, Stream};

use crate::device::Device;
use crate::error::MlxError;
use ingle_engine::error::EngineError;

/// Whether these operations serve arrays of this type on this device.
pub(super) fn serves(device: Device, dtype: Dtype) -> bool {
    device == Device::Cpu && dtype == Dtype::Float32
}

/// `x W^T` for few rows: `[rows, in]` and `[out, in]` to `[rows, out]`.
pub(super) fn linear(x: &Array, weight: &Array) -> Result<Array, MlxError> {
    call("linear", |result, stream| {
        // SAFETY: all handles are live for the call, and `result` may be written.
        #[allow(unsafe_code)]
        unsafe {
            mlx_sys::ingle_cpu_linear(result, x.as_ptr(), weight.as_ptr(), stream)
        }
    })
}

/// Root mean square norm of the last axis.
pub(super) fn rms_norm(x: &Array, weight: &Array, eps: f32) -> Result<Array, MlxError> {
    call("rms_norm", |result, stream| {
        // SAFETY: all handles are live for the call, and `result` may be written.
        #[allow(unsafe_code)]
        unsafe {
            mlx_sys::ingle_cpu_rms_norm(result, x.as_ptr(), weight.as_ptr(), eps, stream)
        }
    })
}

/// `silu(gate) * up`.
pub(super) fn swiglu(gate: &Array, up: &Array) -> Result<Array, MlxError> {
    call("swiglu", |result, stream| {
        // SAFETY: all handles are live for the call, and `result` may be written.
        #[allow(unsafe_code)]
        unsafe {
            mlx_sys::ingle_cpu_swiglu(result, gate.as_ptr(), up.as_ptr(), stream)
        }
    })
}

/// `x (1 + erf(x / sqrt 2)) / 2`.
pub(super) fn gelu(x: &Array) -> Result<Array, MlxError> {
    call("gelu", |result, stream| {
        // SAFETY: all handles are live for the call, and `result` may be written.
        #[allow(unsafe_code)]
        unsafe {
            mlx_sys::ingle_cpu_gelu(result, x.as_ptr(), stream)
        }
    })
}

/// Causal softmax of `[heads, rows, len]` scores, where row `r` belongs to new token `r % new`.
pub(super) fn causal_softmax(scores: &Array, new: i32) -> Result<Array, MlxError> {
    call("causal_softmax", |result, stream| {
        // SAFETY: all handles are live for the call, and `result` may be written.
        #[allow(unsafe_code)]
        unsafe {
            mlx_sys::ingle_cpu_causal_softmax(result, scores.as_ptr(), new, stream)
        }
    })
}

/// Attention of one token: `[query heads, dim]` over `[kv heads, len, dim]`.
pub(super) fn attend_one(queries: &Array, keys: &Array, values: &Array) -> Result<Array, MlxError> {
    call("attend_one", |result, stream| {
        // SAFETY: all handles are live for the call, and `result` may be written.
        #[allow(unsafe_code)]
        unsafe {
            mlx_sys::ingle_cpu_attend_one(
                result,
                queries.as_ptr(),
                keys.as_ptr(),
                values.as_ptr(),
                stream,
            )
        }
    })
}

/// Whether these operations leave a core to others from now on, as a loader thread needs one.
pub(super) fn share_cores(shares: bool) {
    // SAFETY: the call changes a number of threads, whatever computes meanwhile.
    #[allow(unsafe_code)]
    unsafe {
        mlx_sys::ingle_cpu_share_cores(shares);
    }
}

/// Runs one operation on this thread's stream and takes over its result.
fn call(
    name: &str,
    operation: impl FnOnce(&mut mlx_sys::mlx_array, mlx_sys::mlx_stream) -> i32,
) -> Result<Array, MlxError> {
    let stream = Stream::thread_local_or_default();
    // SAFETY: makes an empty handle; it allocates nothing.
    #[allow(unsafe_code)]
    let mut result = unsafe { mlx_sys::mlx_array_new() };
    if operation(&mut result, stream.as_ptr()) == 0 {
        // SAFETY: on success the handle owns an array, which is given to `Array` once.
        #[allow(unsafe_code)]
        return Ok(unsafe { Array::from_ptr(result) });
    }
    // mlx-rs keeps the message to itself; which operation it was says enough, for the shapes are
    // fixed by the architecture.
    Err(EngineError::Native(format!("MLX: `{name}` refused its arguments")).into())
}

#[cfg(test)]
mod tests {
    //! Each operation against MLX's own, at sizes that leave rests in vectors and blocks.

    use mlx_rs::ops::indexing::TryIndexOp;
    use mlx_rs::{Array, fast, ops, random};

    use super::*;

    fn noise(shape: &[i32]) -> Array {
        let array = random::normal::<f32>(shape, None, Some(2.0), None).unwrap();
        array.eval().unwrap();
        array
    }

    fn assert_close(found: &Array, expected: &Array) {
        assert_eq!(found.shape(), expected.shape());
        let gap = found.subtract(expected).unwrap().abs().unwrap().max(None).unwrap();
        let gap = gap.item_exact::<f32>();
        assert!(gap < 1e-4, "off by {gap}");
    }

    #[test]
    fn linear_is_the_matrix_product() {
        for (rows, width, outs) in [(1, 1, 1), (1, 33, 7), (3, 100, 5), (8, 576, 131), (11, 64, 66)]
        {
            let (x, weight) = (noise(&[rows, width]), noise(&[outs, width]));
            let expected = ops::matmul(&x, weight.swap_axes(0, 1).unwrap()).unwrap();
            assert_close(
                &linear(&x, &weight).unwrap().divide(Array::from_f32(30.0)).unwrap(),
                &expected.divide(Array::from_f32(30.0)).unwrap(),
            );
        }
        // An input that is not row-major.
        let (x, weight) = (noise(&[50, 3]), noise(&[9, 50]));
        let x = x.swap_axes(0, 1).unwrap();
        let expected = ops::matmul(&x, weight.swap_axes(0, 1).unwrap()).unwrap();
        assert_close(&linear(&x, &weight).unwrap(), &expected);
    }

    #[test]
    fn rms_norm_and_swiglu_are_what_mlx_computes() {
        for (rows, width) in [(1, 3), (2, 64), (5, 577), (300, 90)] {
            let (x, weight) = (noise(&[rows, width]), noise(&[width]));
            let expected = fast::rms_norm(&x, Some(&weight), 1e-5).unwrap();
            assert_close(&rms_norm(&x, &weight, 1e-5).unwrap(), &expected);
            let (gate, up) = (noise(&[rows, width]), noise(&[rows, width]));
            let expected = gate.multiply(ops::sigmoid(&gate).unwrap()).unwrap();
            assert_close(&swiglu(&gate, &up).unwrap(), &expected.multiply(&up).unwrap());
        }
    }

    #[test]
    fn gelu_is_what_mlx_computes() {
        for (rows, width) in [(1, 3), (2, 64), (300, 90)] {
            let x = noise(&[rows, width]);
            let half = Array::from_f32(0.5);
            let erf = ops::erf(x.multiply(half.sqrt().unwrap()).unwrap()).unwrap();
            let share = erf.add(Array::from_f32(1.0)).unwrap().multiply(half).unwrap();
            assert_close(&gelu(&x).unwrap(), &x.multiply(share).unwrap());
        }
        let values = [-1e30_f32, -200.0, 0.0, 200.0, 1e30];
        let found = gelu(&Array::from_slice(&values.repeat(7), &[35])).unwrap();
        for (index, found) in found.to_vec_exact::<f32>().unwrap().into_iter().enumerate() {
            assert!((found - values[index % 5].max(0.0)).abs() < 1e-6, "{index}: {found}");
        }
    }

    #[test]
    fn extreme_gates_saturate() {
        let values = [-1e30_f32, -200.0, -88.0, 0.0, 88.0, 200.0, 1e30, f32::NAN];
        let gate = Array::from_slice(&values.repeat(3), &[24]);
        let found = swiglu(&gate, &Array::from_slice(&[1.0_f32; 24], &[24])).unwrap();
        for (index, &found) in found.to_vec_exact::<f32>().unwrap().iter().enumerate() {
            let gate = f64::from(values[index % 8]);
            let expected = gate / (1.0 + (-gate).exp());
            if gate.is_nan() {
                assert!(found.is_nan());
            } else {
                assert!((f64::from(found) - expected).abs() <= 1e-5 * gate.abs().max(1.0) * 1e-1);
            }
        }
    }

    #[test]
    fn causal_softmax_hides_the_future() {
        for (heads, stacked, new, len) in [(2, 3, 5, 5), (1, 1, 20, 37), (3, 2, 4, 300)] {
            let scores = noise(&[heads, stacked * new, len]);
            let found = causal_softmax(&scores, new).unwrap();
            for row in [0, new - 1, stacked * new - 1] {
                let seen = len - new + row % new + 1;
                let scores = scores.try_index((.., row, ..seen)).unwrap();
                let expected = ops::softmax_axis(&scores, -1, None).unwrap();
                assert_close(&found.try_index((.., row, ..seen)).unwrap(), &expected);
                if seen < len {
                    let rest = found.try_index((.., row, seen..)).unwrap();
                    assert_eq!(rest.abs().unwrap().max(None).unwrap().item_exact::<f32>(), 0.0);
                }
            }
        }
    }

    #[test]
    fn attend_one_is_scaled_dot_product_attention() {
        for (kv_heads, per_kv, dim, len) in [(1, 1, 8, 1), (3, 3, 64, 100), (2, 5, 70, 1000)] {
            let queries = noise(&[kv_heads * per_kv, dim]);
            // Keys and values as they lie in a cache: parts of one larger buffer.
            let buffer = noise(&[2 * kv_heads, len + 28, dim]);
            let keys = buffer.try_index((..kv_heads, ..len, ..)).unwrap();
            let values = buffer.try_index((kv_heads.., ..len, ..)).unwrap();
            let expected = fast::scaled_dot_product_attention(
                queries.reshape(&[1, kv_heads * per_kv, 1, dim]).unwrap(),
                keys.expand_dims(0).unwrap(),
                values.expand_dims(0).unwrap(),
                1.0,
                None,
                None,
            )
            .unwrap();
            let expected = expected.reshape(&[kv_heads * per_kv, dim]).unwrap();
            assert_close(&attend_one(&queries, &keys, &values).unwrap(), &expected);
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let (x, weight) = (noise(&[2, 3]), noise(&[5, 4]));
        assert!(matches!(
            linear(&x, &weight).map_err(EngineError::from),
            Err(EngineError::Native(_))
        ));
        assert!(matches!(
            rms_norm(&x, &x, 1e-5).map_err(EngineError::from),
            Err(EngineError::Native(_))
        ));
        assert!(matches!(
            swiglu(&x, &weight).map_err(EngineError::from),
            Err(EngineError::Native(_))
        ));
        assert!(matches!(
            causal_softmax(&x, 1).map_err(EngineError::from),
            Err(EngineError::Native(_))
        ));
        assert!(matches!(
            attend_one(&x, &x, &x).map_err(EngineError::from),
            Err(EngineError::Native(_))
        ));
    }
}
