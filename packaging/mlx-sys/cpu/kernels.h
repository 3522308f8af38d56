// The loops behind ingle_cpu.h, compiled once for each instruction set (see kernels.c).
#ifndef INGLE_KERNELS_H
#define INGLE_KERNELS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// One instruction set's loops. All matrices are row-major and contiguous unless a stride is given.
typedef struct {
  // y[row][o] for o in [begin, end): x [rows, in], weight [out, in], y [rows, out].
  void (*linear)(
      const float* x,
      const float* weight,
      float* y,
      size_t rows,
      size_t in,
      size_t out,
      size_t begin,
      size_t end);
  void (*rms_norm)(
      const float* x, const float* weight, float* y, size_t rows, size_t n, float eps);
  void (*swiglu)(const float* gate, const float* up, float* y, size_t n);
  void (*gelu)(const float* x, float* y, size_t n);
  // Softmax of the first `seen` of `len` scores; the rest becomes 0.
  void (*softmax)(const float* scores, float* y, size_t seen, size_t len);
  // One key head: `heads` queries [heads, dim] over keys and values [len, dim] whose rows lie
  // key_stride and value_stride apart; scratch holds heads * len floats.
  void (*attend)(
      const float* queries,
      const float* keys,
      const float* values,
      float* y,
      float* scratch,
      size_t heads,
      size_t dim,
      size_t len,
      size_t key_stride,
      size_t value_stride);
} ingle_kernels;

extern const ingle_kernels ingle_kernels_base;
#if defined(__x86_64__)
// AVX2 and FMA.
extern const ingle_kernels ingle_kernels_v3;
// AVX-512.
extern const ingle_kernels ingle_kernels_v4;
#endif

#ifdef __cplusplus
}
#endif

#endif
