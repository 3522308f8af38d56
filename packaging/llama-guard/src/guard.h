// What llama-guard's Rust half declares (sys.rs). Every function that calls llama.cpp catches what it
// throws. Those that take a `message` return one of the GUARD_ codes; with anything but GUARD_OK the
// cause is written to `message`, a buffer of `message_len` bytes, always terminated. The others cannot
// fail in a way that matters: what they catch is dropped.

#pragma once

#include <cstddef>
#include <cstdint>

struct llama_model;
struct llama_vocab;

enum guard_status : int32_t {
    GUARD_OK        = 0,
    GUARD_FAILED    = 1,  // llama.cpp reported an error
    GUARD_EXCEPTION = 2,  // a C++ exception was caught
    GUARD_NO_MEMORY = 3,  // std::bad_alloc
    GUARD_ASSERTION = 4,  // an assertion of ggml or llama.cpp failed while a file was loaded
    GUARD_CANCELLED = 5,  // a callback said so
    GUARD_FULL      = 6,  // no room in the KV cache
};

// Lines without their newline; levels as in ggml.h, and 5 for ggml's last words before it aborts.
typedef void (*guard_log_hook)(int32_t level, const char * line, size_t len);
typedef bool (*guard_progress_hook)(float progress, void * user);
typedef bool (*guard_stop_hook)(void * user);

struct guard_load_options {
    int32_t             gpu_layers;  // negative: llama.cpp decides
    bool                vocab_only;
    bool                check_tensors;
    guard_progress_hook progress;    // may be null; false ends the load
    void *              progress_user;
};

struct guard_model_facts {
    uint64_t bytes;
    int32_t  vocab_size;
    int32_t  trained_context;
    int32_t  embedding_size;
    bool     has_encoder;
    bool     has_decoder;
    bool     is_recurrent;
    bool     is_hybrid;
    bool     is_diffusion;
};

struct guard_context_options {
    uint32_t context_tokens;
    uint32_t batch_tokens;
    uint32_t micro_batch_tokens;
    uint32_t sequences;
    uint32_t outputs;
    int32_t  threads;
    bool     embeddings;
};

struct guard_context_facts {
    uint64_t kv_bytes;
    uint64_t compute_bytes;
    uint32_t context_tokens;
    int32_t  pooling;
};

struct guard_vocab_facts {
    int32_t size;
    int32_t kind;
    int32_t bos;
    int32_t eos;
    int32_t fim_prefix;
    int32_t fim_suffix;
    int32_t fim_middle;
    bool    add_bos;
    bool    add_eos;
};

// A context with the thread pool it computes on.
struct guard_context;

extern "C" {

// Lines of the debug level are made for every graph: they are dropped unless `wants_debug`.
int32_t guard_start(guard_log_hook hook, bool wants_debug, char * message, size_t message_len);

// Physical cores of the machine, or 0 where this has no way to tell.
int32_t guard_physical_cores(void);

int32_t guard_load(const char * path, const guard_load_options * options, llama_model ** out,
                   char * message, size_t message_len);
void    guard_model_free(llama_model * model);
int32_t guard_model_facts_of(const llama_model * model, guard_model_facts * out,
                             char * message, size_t message_len);

int32_t guard_context_new(llama_model * model, const guard_context_options * options,
                          guard_context ** out, char * message, size_t message_len);
void    guard_context_free(guard_context * context);
void    guard_context_set_threads(guard_context * context, int32_t threads);
// Whether whole blocks of that ggml type hold finite numbers only.
bool    guard_is_finite(int32_t type, const uint8_t * blocks, size_t len);
int32_t guard_context_facts_of(const guard_context * context, guard_context_facts * out,
                               char * message, size_t message_len);

// Decodes a batch, or encodes it. The four arrays have `count` entries. `stop` may be null; it is asked
// between the operations of the graph, and true ends the run with GUARD_CANCELLED.
int32_t guard_run(guard_context * context, bool encodes, int32_t count, const int32_t * tokens,
                  const int32_t * positions, const int32_t * sequences, const int8_t * wanted,
                  guard_stop_hook stop, void * stop_user, char * message, size_t message_len);
int32_t guard_synchronize(guard_context * context, char * message, size_t message_len);

// `out` points into llama.cpp's buffers until the next run.
int32_t guard_logits(guard_context * context, int32_t index, const float ** out,
                     char * message, size_t message_len);
int32_t guard_embedding(guard_context * context, int32_t sequence, const float ** out,
                        char * message, size_t message_len);

int32_t guard_sequence_remove(guard_context * context, int32_t sequence, int32_t from, int32_t to,
                              bool * removed, char * message, size_t message_len);
int32_t guard_sequence_copy(guard_context * context, int32_t source, int32_t target, int32_t from,
                            int32_t to, char * message, size_t message_len);
int32_t guard_sequence_range(guard_context * context, int32_t sequence, int32_t * first,
                             int32_t * last, char * message, size_t message_len);

int32_t guard_vocab_facts_of(const llama_model * model, guard_vocab_facts * out,
                             char * message, size_t message_len);
// `count` is what llama_tokenize returns: tokens written, or minus the tokens there would be.
int32_t guard_tokenize(const llama_model * model, const char * text, int32_t text_len,
                       bool add_special, bool parse_special, int32_t * out, int32_t capacity,
                       int32_t * count, char * message, size_t message_len);
// The same for the bytes of one token.
int32_t guard_piece(const llama_model * model, int32_t token, bool special, char * out,
                    int32_t capacity, int32_t * count, char * message, size_t message_len);
// The token's attributes (`llama_token_attr`) and whether it ends a generation.
int32_t guard_token(const llama_model * model, int32_t token, int32_t * attributes, bool * ends,
                    char * message, size_t message_len);

}
