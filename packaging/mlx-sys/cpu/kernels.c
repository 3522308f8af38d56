// The loops behind ingle_cpu.h, in the vector extensions that GCC and Clang share.
//
// This file is compiled once for each instruction set, with INGLE_KERNELS naming the table it
// defines. It is C, and everything else in it is static, so that no function compiled for a newer
// processor can be picked by the linker in the place of a common one.

#include "kernels.h"

#include <math.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(LANES * sizeof(float))));
typedef int ivec __attribute__((vector_size(LANES * sizeof(int))));
// The same in memory, where nothing is aligned.
typedef float memvec __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

INLINE vec load(const float* p) {
  return *(const memvec*)p;
}

INLINE void store(float* p, vec v) {
  *(memvec*)p = v;
}

INLINE vec splat(float x) {
  return x - (vec){};
}

INLINE float sum(vec v) {
  float total = 0;
  for (int lane = 0; lane < LANES; lane++) {
    total += v[lane];
  }
  return total;
}

INLINE vec select(ivec condition, vec yes, vec no) {
  return (vec)((condition & (ivec)yes) | (~condition & (ivec)no));
}

// e^x to about 1 unit in the last place, by Cephes' expf: 2^n times a polynomial on
// [-ln 2 / 2, ln 2 / 2]. Outside the range of normal floats it saturates; NaN stays NaN.
INLINE vec exponential(vec x) {
  const vec low = splat(-87.0f), high = splat(88.0f);
  x = select(x < low, low, x);
  x = select(x > high, high, x);
  const vec magic = splat(12582912.0f); // 1.5 * 2^23: adding it rounds to an integer.
  const vec n = (x * 1.44269504088896341f + magic) - magic;
  const vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
  vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const ivec power = (__builtin_convertvector(n, ivec) + 127) << 23;
  return p * (vec)power;
}

// `rows` times `outs` dot products of length `in`. Both counts are constants where this is called,
// so that the sums live in registers.
INLINE void dots(
    const float* x,
    const float* weight,
    float* y,
    const int rows,
    const int outs,
    size_t in,
    size_t out) {
  vec sums[4][4];
  for (int r = 0; r < rows; r++) {
    for (int o = 0; o < outs; o++) {
      sums[r][o] = splat(0);
    }
  }
  size_t i = 0;
  for (; i + LANES <= in; i += LANES) {
    vec w[4];
#pragma GCC unroll 4
    for (int o = 0; o < outs; o++) {
      w[o] = load(weight + o * in + i);
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
      const vec v = load(x + r * in + i);
#pragma GCC unroll 4
      for (int o = 0; o < outs; o++) {
        sums[r][o] += v * w[o];
      }
    }
  }
  for (int r = 0; r < rows; r++) {
    for (int o = 0; o < outs; o++) {
      float total = sum(sums[r][o]);
      for (size_t rest = i; rest < in; rest++) {
        total += x[r * in + rest] * weight[o * in + rest];
      }
      y[r * out + o] = total;
    }
  }
}

// All rows for `outs` outputs, up to four rows at a time.
INLINE void block(
    const float* x,
    const float* weight,
    float* y,
    size_t rows,
    const int outs,
    size_t in,
    size_t out) {
  for (; rows >= 4; rows -= 4, x += 4 * in, y += 4 * out) {
    dots(x, weight, y, 4, outs, in, out);
  }
  if (rows == 3) {
    dots(x, weight, y, 3, outs, in, out);
  } else if (rows == 2) {
    dots(x, weight, y, 2, outs, in, out);
  } else if (rows == 1) {
    dots(x, weight, y, 1, outs, in, out);
  }
}

static void linear(
    const float* x,
    const float* weight,
    float* y,
    size_t rows,
    size_t in,
    size_t out,
    size_t begin,
    size_t end) {
  size_t o = begin;
  // Four weight rows at once: as many streams from memory, and enough sums to hide the latency of
  // an addition.
  for (; o + 4 <= end; o += 4) {
    block(x, weight + o * in, y + o, rows, 4, in, out);
  }
  for (; o < end; o++) {
    block(x, weight + o * in, y + o, rows, 1, in, out);
  }
}

static void rms_norm(
    const float* x, const float* weight, float* y, size_t rows, size_t n, float eps) {
  for (size_t row = 0; row < rows; row++, x += n, y += n) {
    vec squares = splat(0);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
      const vec v = load(x + i);
      squares += v * v;
    }
    float total = sum(squares);
    for (; i < n; i++) {
      total += x[i] * x[i];
    }
    const float scale = 1.0f / sqrtf(total / (float)n + eps);
    for (i = 0; i + LANES <= n; i += LANES) {
      store(y + i, load(x + i) * scale * load(weight + i));
    }
    for (; i < n; i++) {
      y[i] = x[i] * scale * weight[i];
    }
  }
}

static void swiglu(const float* gate, const float* up, float* y, size_t n) {
  size_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    const vec g = load(gate + i);
    store(y + i, g / (exponential(-g) + 1.0f) * load(up + i));
  }
  for (; i < n; i++) {
    y[i] = gate[i] / (expf(-gate[i]) + 1.0f) * up[i];
  }
}

// Half the complementary error function of z >= 0, by Abramowitz and Stegun 7.1.26: off by 1e-7
// at most, and relatively small where it is small.
INLINE vec half_erfc(vec z) {
  const vec t = 1.0f / (z * 0.3275911f + 1.0f);
  vec p = splat(0.5f * 1.061405429f);
  p = p * t - 0.5f * 1.453152027f;
  p = p * t + 0.5f * 1.421413741f;
  p = p * t - 0.5f * 0.284496736f;
  p = p * t + 0.5f * 0.254829592f;
  return p * t * exponential(-z * z);
}

static void gelu(const float* x, float* y, size_t n) {
  size_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    const vec v = load(x + i);
    const vec z = v * 0.70710678f;
    const vec tail = half_erfc(select(z < 0.0f, -z, z));
    store(y + i, v * select(z < 0.0f, tail, 1.0f - tail));
  }
  for (; i < n; i++) {
    y[i] = 0.5f * x[i] * erfcf(x[i] * -0.70710678f);
  }
}

static void softmax(const float* scores, float* y, size_t seen, size_t len) {
  float max = scores[0];
  size_t i = 0;
  if (seen >= LANES) {
    vec maxima = load(scores);
    for (; i + LANES <= seen; i += LANES) {
      const vec v = load(scores + i);
      maxima = select(v > maxima, v, maxima);
    }
    for (int lane = 0; lane < LANES; lane++) {
      max = maxima[lane] > max ? maxima[lane] : max;
    }
  }
  for (; i < seen; i++) {
    max = scores[i] > max ? scores[i] : max;
  }
  vec sums = splat(0);
  for (i = 0; i + LANES <= seen; i += LANES) {
    const vec e = exponential(load(scores + i) - max);
    sums += e;
    store(y + i, e);
  }
  float total = sum(sums);
  for (; i < seen; i++) {
    y[i] = expf(scores[i] - max);
    total += y[i];
  }
  const float scale = 1.0f / total;
  for (i = 0; i + LANES <= seen; i += LANES) {
    store(y + i, load(y + i) * scale);
  }
  for (; i < seen; i++) {
    y[i] *= scale;
  }
  for (; i < len; i++) {
    y[i] = 0;
  }
}

// `width` vectors of the output at once: the sum over tokens of weight times value.
INLINE void weighted_sum(
    const float* weights,
    const float* values,
    float* y,
    const int width,
    size_t len,
    size_t value_stride) {
  vec sums[4];
  for (int w = 0; w < width; w++) {
    sums[w] = splat(0);
  }
  for (size_t t = 0; t < len; t++, values += value_stride) {
#pragma GCC unroll 4
    for (int w = 0; w < width; w++) {
      sums[w] += weights[t] * load(values + w * LANES);
    }
  }
  for (int w = 0; w < width; w++) {
    store(y + w * LANES, sums[w]);
  }
}

static void attend(
    const float* queries,
    const float* keys,
    const float* values,
    float* y,
    float* scratch,
    size_t heads,
    size_t dim,
    size_t len,
    size_t key_stride,
    size_t value_stride) {
  // Scores: the keys are read once for every four query heads.
  for (size_t t = 0; t < len; t++) {
    block(queries, keys + t * key_stride, scratch + t, heads, 1, dim, len);
  }
  for (size_t head = 0; head < heads; head++, y += dim) {
    float* weights = scratch + head * len;
    softmax(weights, weights, len, len);
    size_t d = 0;
    for (; d + 4 * LANES <= dim; d += 4 * LANES) {
      weighted_sum(weights, values + d, y + d, 4, len, value_stride);
    }
    for (; d + LANES <= dim; d += LANES) {
      weighted_sum(weights, values + d, y + d, 1, len, value_stride);
    }
    for (; d < dim; d++) {
      float total = 0;
      for (size_t t = 0; t < len; t++) {
        total += weights[t] * values[t * value_stride + d];
      }
      y[d] = total;
    }
  }
}

const ingle_kernels INGLE_KERNELS = {linear, rms_norm, swiglu, gelu, softmax, attend};
