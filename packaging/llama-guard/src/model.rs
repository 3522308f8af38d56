//! A model in memory, or its vocabulary alone.

use std::ffi::{CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::NonNull;

use crate::{Error, check, log, sys};

/// How a file is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// Layers that go to a GPU; what llama.cpp thinks best when absent.
    pub gpu_layers: Option<u32>,
    /// Whether every weight is read and checked to be a number.
    pub check_tensors: bool,
}

/// What llama.cpp knows of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelFacts {
    /// Bytes of its tensors.
    pub bytes: u64,
    /// Tokens of its vocabulary.
    pub vocab_size: usize,
    /// Tokens of context it was trained with.
    pub trained_context: usize,
    /// Numbers of one embedding.
    pub embedding_size: usize,
    /// Whether a text goes through an encoder before anything else.
    pub has_encoder: bool,
    /// Whether it can generate.
    pub has_decoder: bool,
    /// Whether it keeps a state instead of a KV cache.
    pub is_recurrent: bool,
    /// Whether it keeps both.
    pub is_hybrid: bool,
    /// Whether it generates by diffusion, not token by token.
    pub is_diffusion: bool,
}

/// A loaded model. Dropping it frees it; contexts keep it alive.
#[derive(Debug)]
pub struct Model {
    raw: NonNull<sys::LlamaModel>,
}

// SAFETY: llama.cpp's models belong to no thread, and what is called on `&Model` only reads.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Model {
    /// Loads a GGUF file, weights and all. `progress` gets the loaded fraction, from 0
    /// to 1, and ends the load by returning false.
    ///
    /// # Errors
    /// With llama.cpp's reason; [`crate::ErrorKind::Cancelled`] when `progress` has ended it.
    pub fn load(
        path: &Path,
        options: &LoadOptions,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Self, Error> {
        Self::load_with(path, options, false, progress)
    }

    pub(crate) fn load_vocab_only(path: &Path) -> Result<Self, Error> {
        Self::load_with(path, &LoadOptions::default(), true, &mut |_| true)
    }

    fn load_with(
        path: &Path,
        options: &LoadOptions,
        vocab_only: bool,
        mut progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Self, Error> {
        log::start()?;
        let path = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| Error::failed("the path has a zero byte in it"))?;
        let options = sys::GuardLoadOptions {
            gpu_layers: options.gpu_layers.map_or(-1, |layers| layers.try_into().unwrap_or(-1)),
            vocab_only,
            check_tensors: options.check_tensors,
            progress: Some(on_progress),
            progress_user: (&raw mut progress).cast(),
        };
        let mut raw = std::ptr::null_mut();
        // SAFETY: path and options outlive the call, and so does the closure behind
        // `progress_user`, which is only used on this thread while the call lasts.
        check(|message, len| unsafe {
            sys::guard_load(path.as_ptr(), &raw const options, &raw mut raw, message, len)
        })?;
        let raw = NonNull::new(raw).ok_or_else(|| Error::failed("llama.cpp gave no model"))?;
        Ok(Self { raw })
    }

    /// What llama.cpp knows of it.
    ///
    /// # Errors
    /// When llama.cpp throws.
    pub fn facts(&self) -> Result<ModelFacts, Error> {
        let mut facts = sys::GuardModelFacts::default();
        // SAFETY: the model is alive, and the structure is written before it is read.
        check(|message, len| unsafe {
            sys::guard_model_facts_of(self.raw.as_ptr(), &raw mut facts, message, len)
        })?;
        let size = |count: i32| usize::try_from(count).unwrap_or(0);
        Ok(ModelFacts {
            bytes: facts.bytes,
            vocab_size: size(facts.vocab_size),
            trained_context: size(facts.trained_context),
            embedding_size: size(facts.embedding_size),
            has_encoder: facts.has_encoder,
            has_decoder: facts.has_decoder,
            is_recurrent: facts.is_recurrent,
            is_hybrid: facts.is_hybrid,
            is_diffusion: facts.is_diffusion,
        })
    }

    pub(crate) fn raw(&self) -> *mut sys::LlamaModel {
        self.raw.as_ptr()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: it is freed once, and nothing borrows it: contexts hold a reference count.
        unsafe { sys::guard_model_free(self.raw.as_ptr()) };
    }
}

extern "C" fn on_progress(share: f32, user: *mut c_void) -> bool {
    // SAFETY: `user` is the closure that `load_with` has put there, on this thread.
    let progress = unsafe { &mut *user.cast::<&mut dyn FnMut(f32) -> bool>() };
    // A panic must not unwind through C++; the load ends instead.
    catch_unwind(AssertUnwindSafe(|| progress(share))).unwrap_or(false)
}
