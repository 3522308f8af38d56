// Operations that MLX's CPU backend lacks or runs without vector code, as MLX graph operations.
//
// MLX has no vector code for x86: its exponential costs more than all matrix products of a prompt
// together, and a product with one row goes through a BLAS routine made for many. These few
// operations cover what a decoder or encoder spends its time on. They take and give float32 arrays, run on
// the CPU stream `s`, and otherwise behave like mlx-c's: 0 is success, and a failure has been
// passed to the error handler.
#ifndef INGLE_CPU_H
#define INGLE_CPU_H

#include <stdbool.h>

#include "mlx/c/array.h"
#include "mlx/c/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

// x W^T for few rows: x [rows, in], weight [out, in] to [rows, out].
int ingle_cpu_linear(
    mlx_array* res,
    const mlx_array x,
    const mlx_array weight,
    const mlx_stream s);

// x * weight / sqrt(mean(x^2) + eps) over the last axis: x [rows, n], weight [n].
int ingle_cpu_rms_norm(
    mlx_array* res,
    const mlx_array x,
    const mlx_array weight,
    float eps,
    const mlx_stream s);

// gate / (1 + exp(-gate)) * up, element by element.
int ingle_cpu_swiglu(
    mlx_array* res,
    const mlx_array gate,
    const mlx_array up,
    const mlx_stream s);

// x (1 + erf(x / sqrt 2)) / 2, element by element.
int ingle_cpu_gelu(mlx_array* res, const mlx_array x, const mlx_stream s);

// Softmax over the last axis of scores [heads, rows, len], where `new_tokens` divides rows: row r
// belongs to new token r % new_tokens of the `new_tokens` that end a sequence of `len`, and sees
// the tokens up to itself. What it does not see becomes 0.
int ingle_cpu_causal_softmax(
    mlx_array* res,
    const mlx_array scores,
    int new_tokens,
    const mlx_stream s);

// Attention of one token: queries [query heads, dim], already scaled, over keys and values
// [kv heads, len, dim], whose last axis must be contiguous, to [query heads, dim].
int ingle_cpu_attend_one(
    mlx_array* res,
    const mlx_array queries,
    const mlx_array keys,
    const mlx_array values,
    const mlx_stream s);

// An array of floats that have not been written, and where they lie: for weights that are copied in
// pieces.
int ingle_cpu_empty(mlx_array* res, float** data, const int* shape, int dim);

// Whether these operations leave a core to others from now on: they compute on one thread less then,
// but always on one.
void ingle_cpu_share_cores(bool shares);

#ifdef __cplusplus
}
#endif

#endif
