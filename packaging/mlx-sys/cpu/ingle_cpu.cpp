// The operations of ingle_cpu.h as MLX primitives.

#include "ingle_cpu.h"

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <vector>

#include "kernels.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"
#include "pool.h"

namespace mx = mlx::core;

namespace {

// Work below this many elements is not worth a second thread.
constexpr size_t MIN_PARALLEL = 16 * 1024;

const ingle_kernels& kernels() {
  static const ingle_kernels& chosen = []() -> const ingle_kernels& {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (v4) {
      return ingle_kernels_v4;
    }
    if (v3) {
      return ingle_kernels_v3;
    }
#endif
    return ingle_kernels_base;
  }();
  return chosen;
}

// Calls f(begin, end) on pieces of [0, n), several at once if the elements are many.
template <typename F>
void split(size_t n, size_t elements, size_t multiple, const F& f) {
  if (elements < MIN_PARALLEL) {
    f(0, n);
    return;
  }
  // Enough pieces for helpers to come late, few enough for each to be worth taking.
  const size_t pieces = std::clamp<size_t>(elements / MIN_PARALLEL, 2, 32);
  const size_t size = ((n + pieces - 1) / pieces + multiple - 1) / multiple * multiple;
  ingle::parallel_for((n + size - 1) / size, [&](size_t i) {
    f(i * size, std::min(n, (i + 1) * size));
  });
}

void check(bool holds, const char* what) {
  if (!holds) {
    throw std::invalid_argument(what);
  }
}

// A weight, which comes from the model's file and so is row-major; checked when it is read.
const float* weight_data(const mx::array& weight) {
  check(weight.flags().row_contiguous, "[ingle_cpu] expected a row-major weight");
  return weight.data<float>();
}

// What the primitives have in common: a float32 result, computed on the CPU only.
class CpuPrimitive : public mx::UnaryPrimitive {
 public:
  using mx::UnaryPrimitive::UnaryPrimitive;

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override {
    throw std::runtime_error(std::string(name()) + " runs on the CPU only");
  }

 protected:
  // Queues `work` on the stream; MLX keeps the arrays alive until it has run.
  template <typename F>
  void queue(mx::array& out, F&& work) {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    mx::cpu::get_command_encoder(stream()).dispatch(
        [out = out.data<float>(), work = std::forward<F>(work)] { work(out); });
  }
};

class IngleLinear : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;
  const char* name() const override {
    return "IngleLinear";
  }
  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    const size_t rows = inputs[0].shape(0), in = inputs[0].shape(1), outs = inputs[1].shape(0);
    queue(out, [=, x = inputs[0].data<float>(), w = weight_data(inputs[1])](float* y) {
      split(outs, outs * in, 4, [&](size_t begin, size_t end) {
        kernels().linear(x, w, y, rows, in, outs, begin, end);
      });
    });
  }
};

class IngleRmsNorm : public CpuPrimitive {
 public:
  IngleRmsNorm(mx::Stream stream, float eps) : CpuPrimitive(stream), eps_(eps) {}
  const char* name() const override {
    return "IngleRmsNorm";
  }
  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    const size_t n = inputs[1].size(), rows = inputs[0].size() / n;
    const float eps = eps_;
    queue(out, [=, x = inputs[0].data<float>(), w = weight_data(inputs[1])](float* y) {
      split(rows, rows * n, 1, [&](size_t begin, size_t end) {
        kernels().rms_norm(x + begin * n, w, y + begin * n, end - begin, n, eps);
      });
    });
  }

 private:
  float eps_;
};

class IngleSwiglu : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;
  const char* name() const override {
    return "IngleSwiglu";
  }
  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    const size_t n = out.size();
    queue(out, [=, gate = inputs[0].data<float>(), up = inputs[1].data<float>()](float* y) {
      split(n, n, 64, [&](size_t begin, size_t end) {
        kernels().swiglu(gate + begin, up + begin, y + begin, end - begin);
      });
    });
  }
};

class IngleGelu : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;
  const char* name() const override {
    return "IngleGelu";
  }
  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    const size_t n = out.size();
    queue(out, [=, x = inputs[0].data<float>()](float* y) {
      split(n, n, 64, [&](size_t begin, size_t end) {
        kernels().gelu(x + begin, y + begin, end - begin);
      });
    });
  }
};

class IngleCausalSoftmax : public CpuPrimitive {
 public:
  IngleCausalSoftmax(mx::Stream stream, size_t new_tokens)
      : CpuPrimitive(stream), new_tokens_(new_tokens) {}
  const char* name() const override {
    return "IngleCausalSoftmax";
  }
  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    const size_t len = out.shape(2), rows = out.size() / len, tokens = new_tokens_;
    queue(out, [=, scores = inputs[0].data<float>()](float* y) {
      split(rows, rows * len, 1, [&](size_t begin, size_t end) {
        for (size_t row = begin; row < end; row++) {
          const size_t seen = len - tokens + row % tokens + 1;
          kernels().softmax(scores + row * len, y + row * len, seen, len);
        }
      });
    });
  }

 private:
  size_t new_tokens_;
};

class IngleAttendOne : public CpuPrimitive {
 public:
  using CpuPrimitive::CpuPrimitive;
  const char* name() const override {
    return "IngleAttendOne";
  }
  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    const mx::array &q = inputs[0], &k = inputs[1], &v = inputs[2];
    const size_t kv_heads = k.shape(0), len = k.shape(1), dim = k.shape(2);
    const size_t per_kv = q.shape(0) / kv_heads;
    if (k.strides()[2] != 1 || v.strides()[2] != 1) {
      throw std::invalid_argument("[attend_one] keys and values must have contiguous rows");
    }
    queue(out, [=,
                q = q.data<float>(),
                k = k.data<float>(),
                v = v.data<float>(),
                k_head = k.strides()[0],
                v_head = v.strides()[0],
                k_row = k.strides()[1],
                v_row = v.strides()[1]](float* y) {
      std::vector<float> scratch(kv_heads * per_kv * len);
      split(kv_heads, kv_heads * len * dim, 1, [&](size_t begin, size_t end) {
        for (size_t head = begin; head < end; head++) {
          const size_t first = head * per_kv;
          kernels().attend(
              q + first * dim,
              k + head * k_head,
              v + head * v_head,
              y + first * dim,
              scratch.data() + first * len,
              per_kv,
              dim,
              len,
              k_row,
              v_row);
        }
      });
    });
  }
};

// The array behind a handle, which must be float32.
const mx::array& input(mlx_array handle) {
  const mx::array& array = mlx_array_get_(handle);
  check(array.dtype() == mx::float32, "[ingle_cpu] expected float32");
  return array;
}

// The same, row-major; no copy if it is already.
mx::array contiguous(mlx_array handle, mlx_stream s) {
  return mx::contiguous(input(handle), false, mlx_stream_get_(s));
}

// Runs `make` and stores its array in `res`; reports what it throws.
template <typename F>
int guarded(mlx_array* res, F&& make) {
  try {
    mlx_array_set_(*res, make());
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}

} // namespace

extern "C" int ingle_cpu_linear(
    mlx_array* res,
    const mlx_array x,
    const mlx_array weight,
    const mlx_stream s) {
  return guarded(res, [&] {
    auto a = contiguous(x, s);
    const auto& w = input(weight);
    check(a.ndim() == 2 && w.ndim() == 2 && a.shape(1) == w.shape(1), "[linear] shapes differ");
    return mx::array(
        {a.shape(0), w.shape(0)},
        mx::float32,
        std::make_shared<IngleLinear>(mlx_stream_get_(s)),
        {a, w});
  });
}

extern "C" int ingle_cpu_rms_norm(
    mlx_array* res,
    const mlx_array x,
    const mlx_array weight,
    float eps,
    const mlx_stream s) {
  return guarded(res, [&] {
    auto a = contiguous(x, s);
    const auto& w = input(weight);
    check(w.ndim() == 1 && a.ndim() > 0 && a.shape(-1) == w.shape(0), "[rms_norm] shapes differ");
    return mx::array(
        a.shape(),
        mx::float32,
        std::make_shared<IngleRmsNorm>(mlx_stream_get_(s), eps),
        {a, w});
  });
}

extern "C" int ingle_cpu_swiglu(
    mlx_array* res,
    const mlx_array gate,
    const mlx_array up,
    const mlx_stream s) {
  return guarded(res, [&] {
    auto g = contiguous(gate, s), u = contiguous(up, s);
    check(g.shape() == u.shape(), "[swiglu] shapes differ");
    return mx::array(
        g.shape(), mx::float32, std::make_shared<IngleSwiglu>(mlx_stream_get_(s)), {g, u});
  });
}

extern "C" int ingle_cpu_gelu(mlx_array* res, const mlx_array x, const mlx_stream s) {
  return guarded(res, [&] {
    auto a = contiguous(x, s);
    return mx::array(
        a.shape(), mx::float32, std::make_shared<IngleGelu>(mlx_stream_get_(s)), {a});
  });
}

extern "C" int ingle_cpu_causal_softmax(
    mlx_array* res,
    const mlx_array scores,
    int new_tokens,
    const mlx_stream s) {
  return guarded(res, [&] {
    auto a = contiguous(scores, s);
    check(
        a.ndim() == 3 && new_tokens > 0 && a.shape(1) % new_tokens == 0 && new_tokens <= a.shape(2),
        "[causal_softmax] shapes do not fit");
    return mx::array(
        a.shape(),
        mx::float32,
        std::make_shared<IngleCausalSoftmax>(mlx_stream_get_(s), new_tokens),
        {a});
  });
}

extern "C" int ingle_cpu_attend_one(
    mlx_array* res,
    const mlx_array queries,
    const mlx_array keys,
    const mlx_array values,
    const mlx_stream s) {
  return guarded(res, [&] {
    auto q = contiguous(queries, s);
    const auto &k = input(keys), &v = input(values);
    check(
        q.ndim() == 2 && k.ndim() == 3 && k.shape() == v.shape() && k.shape(1) > 0 &&
            q.shape(1) == k.shape(2) && q.shape(0) % k.shape(0) == 0,
        "[attend_one] shapes do not fit");
    return mx::array(
        q.shape(), mx::float32, std::make_shared<IngleAttendOne>(mlx_stream_get_(s)), {q, k, v});
  });
}

extern "C" void ingle_cpu_share_cores(bool shares) {
  ingle::share_cores(shares);
}

extern "C" int ingle_cpu_empty(mlx_array* res, float** data, const int* shape, int dim) {
  return guarded(res, [&] {
    mx::Shape sizes(shape, shape + dim);
    size_t elements = 1;
    for (const int size : sizes) {
      elements *= size;
    }
    auto buffer = mx::allocator::malloc(elements * sizeof(float));
    check(buffer.ptr() != nullptr, "[empty] there is no memory");
    *data = static_cast<float*>(buffer.raw_ptr());
    return mx::array(buffer, std::move(sizes), mx::float32);
  });
}
