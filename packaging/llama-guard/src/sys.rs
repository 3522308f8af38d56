//! The declarations of `guard.h`, in its order.

use std::ffi::{c_char, c_void};

pub(crate) const GUARD_OK: i32 = 0;
pub(crate) const GUARD_EXCEPTION: i32 = 2;
pub(crate) const GUARD_NO_MEMORY: i32 = 3;
pub(crate) const GUARD_ASSERTION: i32 = 4;
pub(crate) const GUARD_CANCELLED: i32 = 5;
pub(crate) const GUARD_FULL: i32 = 6;

#[repr(C)]
pub(crate) struct LlamaModel {
    _opaque: [u8; 0],
}

#[repr(C)]
pub(crate) struct GuardContext {
    _opaque: [u8; 0],
}

pub(crate) type LogHook = extern "C" fn(level: i32, line: *const c_char, len: usize);
pub(crate) type ProgressHook = extern "C" fn(progress: f32, user: *mut c_void) -> bool;
pub(crate) type StopHook = extern "C" fn(user: *mut c_void) -> bool;

#[repr(C)]
pub(crate) struct GuardLoadOptions {
    pub(crate) gpu_layers: i32,
    pub(crate) vocab_only: bool,
    pub(crate) check_tensors: bool,
    pub(crate) progress: Option<ProgressHook>,
    pub(crate) progress_user: *mut c_void,
}

#[repr(C)]
#[derive(Default)]
pub(crate) struct GuardModelFacts {
    pub(crate) bytes: u64,
    pub(crate) vocab_size: i32,
    pub(crate) trained_context: i32,
    pub(crate) embedding_size: i32,
    pub(crate) has_encoder: bool,
    pub(crate) has_decoder: bool,
    pub(crate) is_recurrent: bool,
    pub(crate) is_hybrid: bool,
    pub(crate) is_diffusion: bool,
}

#[repr(C)]
pub(crate) struct GuardContextOptions {
    pub(crate) context_tokens: u32,
    pub(crate) batch_tokens: u32,
    pub(crate) micro_batch_tokens: u32,
    pub(crate) sequences: u32,
    pub(crate) outputs: u32,
    pub(crate) threads: i32,
    pub(crate) embeddings: bool,
}

#[repr(C)]
#[derive(Default)]
pub(crate) struct GuardContextFacts {
    pub(crate) kv_bytes: u64,
    pub(crate) compute_bytes: u64,
    pub(crate) context_tokens: u32,
    pub(crate) pooling: i32,
}

#[repr(C)]
#[derive(Default)]
pub(crate) struct GuardVocabFacts {
    pub(crate) size: i32,
    pub(crate) kind: i32,
    pub(crate) bos: i32,
    pub(crate) eos: i32,
    pub(crate) fim_prefix: i32,
    pub(crate) fim_suffix: i32,
    pub(crate) fim_middle: i32,
    pub(crate) add_bos: bool,
    pub(crate) add_eos: bool,
}

// guard.cpp asserts the same sizes: a field that one side lacks is found when it is compiled.
const _: () = {
    assert!(size_of::<GuardLoadOptions>() == 24);
    assert!(size_of::<GuardModelFacts>() == 32);
    assert!(size_of::<GuardContextOptions>() == 28);
    assert!(size_of::<GuardContextFacts>() == 24);
    assert!(size_of::<GuardVocabFacts>() == 32);
};

unsafe extern "C" {
    pub(crate) fn guard_start(
        hook: LogHook,
        wants_debug: bool,
        message: *mut c_char,
        message_len: usize,
    ) -> i32;
    pub(crate) fn guard_physical_cores() -> i32;

    pub(crate) fn guard_load(
        path: *const c_char,
        options: *const GuardLoadOptions,
        out: *mut *mut LlamaModel,
        message: *mut c_char,
        message_len: usize,
    ) -> i32;
    pub(crate) fn guard_model_free(model: *mut LlamaModel);
    pub(crate) fn guard_model_facts_of(
        model: *const LlamaModel,
        out: *mut GuardModelFacts,
        message: *mut c_char,
        message_len: usize,
    ) -> i32;

    pub(crate) fn guard_context_new(
        model: *mut LlamaModel,
        options: *const GuardContextOptions,
        out: *mut *mut GuardContext,
        message: *mut c_char,
        message_len: usize,
    ) -> i32;
    pub(crate) fn guard_context_free(context: *mut GuardContext);
    pub(crate) fn guard_context_facts_of(
        context: *const GuardContext,
        out: *mut GuardContextFacts,
        message: *mut c_char,
        message_len: usize,
    ) -> i32;

    pub(crate) fn guard_run(
        context: *mut GuardContext,
        encodes: bool,
        count: i32,
        tokens: *const i32,
        positions: *const i32,
        sequences: *const i32,
        wanted: *const i8,
        stop: Option<StopHook>,
        stop_user: *mut c_void,
        message: *mut c_char,
        message_len: usize,
    ) -> i32;
    pub(crate) fn guard_synchronize(
        context: *mut GuardContext,
        message: *mut c_char,
        message_len: usize,
    ) -> i32;

    pub(crate) fn guard_logits(
        context: *mut GuardContext,
        index: i32,
        out: *mut *const f32,
        message: *mut c_char,
        message_len: usize,
    ) -> i32;
    pub(crate) fn guard_embedding(
        context: *mut GuardContext,
        sequence: i32,
        out: *mut *const f32,
        message: *mut c_char,
        message_len: usize,
    ) -> i32;

    pub(crate) fn guard_sequence_remove(
        context: *mut GuardContext,
        sequence: i32,
        from: i32,
        to: i32,
        removed: *mut bool,
        message: *mut c_char,
        message_len: usize,
    ) -> i32;
    pub(crate) fn guard_sequence_copy(
        context: *mut GuardContext,
        source: i32,
        target: i32,
        from: i32,
        to: i32,
        message: *mut c_char,
        message_len: usize,
    ) -> i32;
    pub(crate) fn guard_sequence_range(
        context: *mut GuardContext,
        sequence: i32,
        first: *mut i32,
        last: *mut i32,
        message: *mut c_char,
        message_len: usize,
    ) -> i32;

    pub(crate) fn guard_vocab_facts_of(
        model: *const LlamaModel,
        out: *mut GuardVocabFacts,
        message: *mut c_char,
        message_len: usize,
    ) -> i32;
    pub(crate) fn guard_tokenize(
        model: *const LlamaModel,
        text: *const c_char,
        text_len: i32,
        add_special: bool,
        parse_special: bool,
        out: *mut i32,
        capacity: i32,
        count: *mut i32,
        message: *mut c_char,
        message_len: usize,
    ) -> i32;
    pub(crate) fn guard_piece(
        model: *const LlamaModel,
        token: i32,
        special: bool,
        out: *mut c_char,
        capacity: i32,
        count: *mut i32,
        message: *mut c_char,
        message_len: usize,
    ) -> i32;
    pub(crate) fn guard_token(
        model: *const LlamaModel,
        token: i32,
        attributes: *mut i32,
        ends: *mut bool,
        message: *mut c_char,
        message_len: usize,
    ) -> i32;
    pub(crate) fn guard_context_set_threads(context: *mut GuardContext, threads: i32);
    pub(crate) fn guard_is_finite(kind: i32, blocks: *const u8, len: usize) -> bool;
}
