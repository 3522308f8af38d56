// llama.cpp's calls that can throw, with their exceptions caught before they reach Rust.
//
// llama.cpp says why a load failed in its log only, so the last error line of the calling thread is
// kept and given out with the failure. A failed assertion calls `ggml_abort`, which calls the hook
// below and then abort(). While a file is loaded, on that thread, the hook throws instead: the stack
// is unwound to the load's own call, and a file that passed every check of ours and still broke an
// assumption of llama.cpp's is an error rather than the end of the process. Some memory may be lost
// then. Nowhere else does the hook throw: while a model computes, what is half done cannot be told.

#include "guard.h"

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "llama.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

// From llama.cpp's staging header llama-ext.h, which is not installed. The version of llama.cpp is
// pinned; the test `the_pool_has_the_size_that_arithmetic_gives` notices if this goes out of step.
struct llama_memory_breakdown_data {
    size_t model   = 0;
    size_t context = 0;
    size_t compute = 0;
};
using llama_memory_breakdown = std::map<ggml_backend_buffer_type_t, llama_memory_breakdown_data>;
llama_memory_breakdown llama_get_memory_breakdown(const struct llama_context * ctx);

// sys.rs asserts the same.
static_assert(sizeof(guard_load_options) == 24);
static_assert(sizeof(guard_model_facts) == 32);
static_assert(sizeof(guard_context_options) == 28);
static_assert(sizeof(guard_context_facts) == 24);
static_assert(sizeof(guard_vocab_facts) == 32);

struct guard_context {
    llama_context *              context  = nullptr;
    ggml_threadpool_t            pool     = nullptr;
    guard_stop_hook              stop      = nullptr;  // while a run goes on
    void *                       stop_user = nullptr;
    std::vector<int32_t>         counts;   // all 1: a token belongs to one sequence
    std::vector<llama_seq_id *>  pointers;
    std::vector<llama_seq_id>    sequences;
};

namespace {

guard_log_hook log_hook    = nullptr;
bool           wants_debug = false;

thread_local std::string pending_line;
thread_local std::string last_error;
thread_local bool        is_loading = false;

constexpr int32_t LAST_WORDS = 5;

struct assertion_failed : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Without the function's name in front: `llama_model_load: error ...` is `error ...`.
std::string without_origin(const std::string & line) {
    const auto colon = line.find(": ");
    const bool is_name = colon != std::string::npos && line.find(' ') > colon;
    return is_name ? line.substr(colon + 2) : line;
}

void on_line(ggml_log_level level, const std::string & line) {
    if (line.empty()) {
        return;
    }
    if (level == GGML_LOG_LEVEL_ERROR) {
        std::string text = without_origin(line);
        // The line before this one says why.
        if (text != "failed to load model") {
            last_error = std::move(text);
        }
    }
    if (log_hook) {
        log_hook(level, line.data(), line.size());
    }
}

// Lines come in pieces; a piece at GGML_LOG_LEVEL_CONT goes on with the line before.
void on_log(ggml_log_level level, const char * text, void *) noexcept {
    try {
        static thread_local ggml_log_level line_level = GGML_LOG_LEVEL_INFO;
        if (level != GGML_LOG_LEVEL_CONT) {
            line_level = level;
        }
        if (line_level == GGML_LOG_LEVEL_DEBUG && !wants_debug) {
            return;
        }
        pending_line += text;
        for (auto end = pending_line.find('\n'); end != std::string::npos;
             end = pending_line.find('\n')) {
            const std::string line = pending_line.substr(0, end);
            pending_line.erase(0, end + 1);
            on_line(line_level, line);
        }
    } catch (...) {
        // A log line that cannot be kept is lost.
    }
}

void on_abort(const char * message) {
    if (is_loading) {
        on_line(GGML_LOG_LEVEL_WARN, message);
        throw assertion_failed(message);
    }
    if (log_hook) {
        log_hook(LAST_WORDS, message, std::strlen(message));
    }
}

void write_message(char * out, size_t len, const char * text) noexcept {
    if (len > 0) {
        const size_t size = std::min(len - 1, std::strlen(text));
        std::memcpy(out, text, size);
        out[size] = '\0';
    }
}

template <typename Body> int32_t guarded(char * message, size_t len, Body body) noexcept {
    try {
        return body();
    } catch (const assertion_failed & error) {
        write_message(message, len, error.what());
        return GUARD_ASSERTION;
    } catch (const std::bad_alloc &) {
        write_message(message, len, "out of memory");
        return GUARD_NO_MEMORY;
    } catch (const std::exception & error) {
        write_message(message, len, error.what());
        return GUARD_EXCEPTION;
    } catch (...) {
        write_message(message, len, "an exception of an unknown kind");
        return GUARD_EXCEPTION;
    }
}

// The same where failed assertions can be caught too.
template <typename Body> int32_t guarded_load(char * message, size_t len, Body body) noexcept {
    last_error.clear();
    is_loading           = true;
    const int32_t status = guarded(message, len, body);
    is_loading           = false;
    return status;
}

int32_t failed(char * message, size_t len, const char * otherwise) {
    write_message(message, len, last_error.empty() ? otherwise : last_error.c_str());
    return GUARD_FAILED;
}

// Token, position and sequence arrays as llama.cpp's batch. Nothing is copied but sequence ids.
llama_batch batch_of(guard_context * context, int32_t count, const int32_t * tokens,
                     const int32_t * positions, const int32_t * sequences, const int8_t * wanted) {
    const auto size = static_cast<size_t>(count);
    if (context->counts.size() < size) {
        context->counts.resize(size, 1);
        context->sequences.resize(size);
        context->pointers.resize(size);
        for (size_t i = 0; i < size; ++i) {
            context->pointers[i] = &context->sequences[i];
        }
    }
    std::copy(sequences, sequences + size, context->sequences.begin());
    llama_batch batch {};
    batch.n_tokens = count;
    // llama.cpp reads these only.
    batch.token    = const_cast<llama_token *>(tokens);
    batch.pos      = const_cast<llama_pos *>(positions);
    batch.n_seq_id = context->counts.data();
    batch.seq_id   = context->pointers.data();
    batch.logits   = const_cast<int8_t *>(wanted);
    return batch;
}

int32_t outcome(int32_t code, char * message, size_t len) {
    switch (code) {
        case 0:
            return GUARD_OK;
        case 1:
            write_message(message, len, "the KV cache has no room for the batch");
            return GUARD_FULL;
        case 2:
            write_message(message, len, "the run was given up");
            return GUARD_CANCELLED;
        default: {
            const std::string otherwise = "llama.cpp gave up with code " + std::to_string(code);
            return failed(message, len, otherwise.c_str());
        }
    }
}

} // namespace

int32_t guard_start(guard_log_hook hook, bool debug, char * message, size_t len) {
    return guarded(message, len, [&]() -> int32_t {
        static std::once_flag once;
        // After an exception the next call tries again.
        std::call_once(once, [hook, debug] {
            log_hook    = hook;
            wants_debug = debug;
            llama_log_set(on_log, nullptr);
            ggml_set_abort_callback(on_abort);
            llama_backend_init();
        });
        return GUARD_OK;
    });
}

int32_t guard_physical_cores(void) {
#ifdef __APPLE__
    int32_t cores = 0;
    size_t  size  = sizeof(cores);
    // The fast cores: slow ones would hold every step of a matrix product up.
    if (sysctlbyname("hw.perflevel0.physicalcpu", &cores, &size, nullptr, 0) == 0 && cores > 0) {
        return cores;
    }
    size = sizeof(cores);
    if (sysctlbyname("hw.physicalcpu", &cores, &size, nullptr, 0) == 0 && cores > 0) {
        return cores;
    }
#endif
    return 0;
}

int32_t guard_load(const char * path, const guard_load_options * options, llama_model ** out,
                   char * message, size_t len) {
    return guarded_load(message, len, [&]() -> int32_t {
        struct Progress {
            const guard_load_options * options;
            bool                       cancelled;
        } progress { options, false };
        llama_model_params params          = llama_model_default_params();
        params.n_gpu_layers                = options->gpu_layers;
        params.vocab_only                  = options->vocab_only;
        params.check_tensors               = options->check_tensors;
        params.progress_callback_user_data = &progress;
        params.progress_callback           = [](float share, void * user) {
            auto * state     = static_cast<Progress *>(user);
            const auto * our = state->options;
            if (our->progress && !our->progress(share, our->progress_user)) {
                state->cancelled = true;
            }
            return !state->cancelled;
        };
        *out = llama_model_load_from_file(path, params);
        if (*out) {
            return GUARD_OK;
        }
        if (progress.cancelled) {
            write_message(message, len, "cancelled");
            return GUARD_CANCELLED;
        }
        return failed(message, len, "llama.cpp did not say why");
    });
}

void guard_model_free(llama_model * model) {
    guarded(nullptr, 0, [&]() -> int32_t {
        llama_model_free(model);
        return GUARD_OK;
    });
}

int32_t guard_model_facts_of(const llama_model * model, guard_model_facts * out, char * message,
                             size_t len) {
    return guarded(message, len, [&]() -> int32_t {
        out->bytes           = llama_model_size(model);
        out->vocab_size      = llama_vocab_n_tokens(llama_model_get_vocab(model));
        out->trained_context = llama_model_n_ctx_train(model);
        out->embedding_size  = llama_model_n_embd_out(model);
        out->has_encoder     = llama_model_has_encoder(model);
        out->has_decoder     = llama_model_has_decoder(model);
        out->is_recurrent    = llama_model_is_recurrent(model);
        out->is_hybrid       = llama_model_is_hybrid(model);
        out->is_diffusion    = llama_model_is_diffusion(model);
        return GUARD_OK;
    });
}

int32_t guard_context_new(llama_model * model, const guard_context_options * options,
                          guard_context ** out, char * message, size_t len) {
    return guarded_load(message, len, [&]() -> int32_t {
        llama_context_params params = llama_context_default_params();
        params.n_ctx                = options->context_tokens;
        params.n_batch              = options->batch_tokens;
        params.n_ubatch             = options->micro_batch_tokens;
        params.n_seq_max            = options->sequences;
        params.n_outputs_max        = options->outputs;
        params.n_threads            = options->threads;
        params.n_threads_batch      = options->threads;
        params.embeddings           = options->embeddings;
        params.kv_unified           = true;

        std::unique_ptr<guard_context, decltype(&guard_context_free)> made(new guard_context,
                                                                           guard_context_free);
        params.abort_callback_data = made.get();
        params.abort_callback      = [](void * data) {
            const auto * run = static_cast<const guard_context *>(data);
            return run->stop && run->stop(run->stop_user);
        };
        made->context = llama_init_from_model(model, params);
        if (!made->context) {
            return failed(message, len, "llama.cpp did not say why");
        }
        // Without one ggml would start its threads anew for every graph.
        ggml_threadpool_params pool_params = ggml_threadpool_params_default(options->threads);
        made->pool                         = ggml_threadpool_new(&pool_params);
        if (!made->pool) {
            write_message(message, len, "the threads to compute on could not be started");
            return GUARD_FAILED;
        }
        llama_attach_threadpool(made->context, made->pool, made->pool);
        *out = made.release();
        return GUARD_OK;
    });
}

void guard_context_free(guard_context * context) {
    guarded(nullptr, 0, [&]() -> int32_t {
        if (context->context) {
            llama_free(context->context);
        }
        if (context->pool) {
            ggml_threadpool_free(context->pool);
        }
        delete context;
        return GUARD_OK;
    });
}

void guard_context_set_threads(guard_context * context, int32_t threads) {
    guarded(nullptr, 0, [&]() -> int32_t {
        llama_set_n_threads(context->context, threads, threads);
        return GUARD_OK;
    });
}

bool guard_is_finite(int32_t type, const uint8_t * blocks, size_t len) {
    const int32_t status = guarded(nullptr, 0, [&]() -> int32_t {
        const bool finite = type >= 0 && type < GGML_TYPE_COUNT &&
                            ggml_type_size(ggml_type(type)) > 0 &&
                            ggml_validate_row_data(ggml_type(type), blocks, len);
        return finite ? GUARD_OK : GUARD_FAILED;
    });
    return status == GUARD_OK;
}

int32_t guard_context_facts_of(const guard_context * context, guard_context_facts * out,
                               char * message, size_t len) {
    return guarded(message, len, [&]() -> int32_t {
        *out = {};
        for (const auto & entry : llama_get_memory_breakdown(context->context)) {
            out->kv_bytes += entry.second.context;
            out->compute_bytes += entry.second.compute;
        }
        out->context_tokens = llama_n_ctx(context->context);
        out->pooling        = llama_pooling_type(context->context);
        return GUARD_OK;
    });
}

int32_t guard_run(guard_context * context, bool encodes, int32_t count, const int32_t * tokens,
                  const int32_t * positions, const int32_t * sequences, const int8_t * wanted,
                  guard_stop_hook stop, void * stop_user, char * message, size_t len) {
    const int32_t status = guarded(message, len, [&]() -> int32_t {
        last_error.clear();
        const auto batch = batch_of(context, count, tokens, positions, sequences, wanted);
        const auto run   = encodes ? llama_encode : llama_decode;
        context->stop_user = stop_user;
        context->stop      = stop;
        return outcome(run(context->context, batch), message, len);
    });
    // What it points to is the caller's, and only until the call returns.
    context->stop = nullptr;
    return status;
}

int32_t guard_synchronize(guard_context * context, char * message, size_t len) {
    return guarded(message, len, [&]() -> int32_t {
        llama_synchronize(context->context);
        return GUARD_OK;
    });
}

int32_t guard_logits(guard_context * context, int32_t index, const float ** out, char * message,
                     size_t len) {
    return guarded(message, len, [&]() -> int32_t {
        *out = llama_get_logits_ith(context->context, index);
        return *out ? GUARD_OK : failed(message, len, "there are no logits at that index");
    });
}

int32_t guard_embedding(guard_context * context, int32_t sequence, const float ** out,
                        char * message, size_t len) {
    return guarded(message, len, [&]() -> int32_t {
        *out = llama_get_embeddings_seq(context->context, sequence);
        return *out ? GUARD_OK : failed(message, len, "there is no embedding of that sequence");
    });
}

int32_t guard_sequence_remove(guard_context * context, int32_t sequence, int32_t from, int32_t to,
                              bool * removed, char * message, size_t len) {
    return guarded(message, len, [&]() -> int32_t {
        *removed = llama_memory_seq_rm(llama_get_memory(context->context), sequence, from, to);
        return GUARD_OK;
    });
}

int32_t guard_sequence_copy(guard_context * context, int32_t source, int32_t target, int32_t from,
                            int32_t to, char * message, size_t len) {
    return guarded(message, len, [&]() -> int32_t {
        llama_memory_seq_cp(llama_get_memory(context->context), source, target, from, to);
        return GUARD_OK;
    });
}

int32_t guard_sequence_range(guard_context * context, int32_t sequence, int32_t * first,
                             int32_t * last, char * message, size_t len) {
    return guarded(message, len, [&]() -> int32_t {
        const auto memory = llama_get_memory(context->context);
        *first            = llama_memory_seq_pos_min(memory, sequence);
        *last             = llama_memory_seq_pos_max(memory, sequence);
        return GUARD_OK;
    });
}

int32_t guard_vocab_facts_of(const llama_model * model, guard_vocab_facts * out, char * message,
                             size_t len) {
    // A vocabulary that is not there fails assertions.
    return guarded_load(message, len, [&]() -> int32_t {
        const llama_vocab * vocab = llama_model_get_vocab(model);
        out->size                 = llama_vocab_n_tokens(vocab);
        out->kind                 = llama_vocab_type(vocab);
        out->bos                  = llama_vocab_bos(vocab);
        out->eos                  = llama_vocab_eos(vocab);
        out->fim_prefix           = llama_vocab_fim_pre(vocab);
        out->fim_suffix           = llama_vocab_fim_suf(vocab);
        out->fim_middle           = llama_vocab_fim_mid(vocab);
        out->add_bos              = llama_vocab_get_add_bos(vocab);
        out->add_eos              = llama_vocab_get_add_eos(vocab);
        return GUARD_OK;
    });
}

int32_t guard_tokenize(const llama_model * model, const char * text, int32_t text_len,
                       bool add_special, bool parse_special, int32_t * out, int32_t capacity,
                       int32_t * count, char * message, size_t len) {
    // Tokenizing changes nothing, so that a failed assertion leaves nothing half done either.
    return guarded_load(message, len, [&]() -> int32_t {
        *count = llama_tokenize(llama_model_get_vocab(model), text, text_len, out, capacity,
                                add_special, parse_special);
        return GUARD_OK;
    });
}

int32_t guard_piece(const llama_model * model, int32_t token, bool special, char * out,
                    int32_t capacity, int32_t * count, char * message, size_t len) {
    return guarded_load(message, len, [&]() -> int32_t {
        *count = llama_token_to_piece(llama_model_get_vocab(model), token, out, capacity, 0,
                                      special);
        return GUARD_OK;
    });
}

int32_t guard_token(const llama_model * model, int32_t token, int32_t * attributes, bool * ends,
                    char * message, size_t len) {
    return guarded_load(message, len, [&]() -> int32_t {
        const llama_vocab * vocab = llama_model_get_vocab(model);
        *attributes               = llama_vocab_get_attr(vocab, token);
        *ends                     = llama_vocab_is_eog(vocab, token);
        return GUARD_OK;
    });
}
