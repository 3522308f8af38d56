//! Header checks before llama.cpp loads a file.
//!
//! Owns the checks that prevent assertions and divisions by zero in llama.cpp, and the refusal of
//! models that this engine cannot run. The crate `formats` has checked the file itself; llama.cpp
//! checks names and shapes of tensors against the hyperparameters, and returns errors.

use ingle_engine::error::EngineError;
use ingle_engine::role::Role;
use ingle_formats::gguf::{GgmlType, GgufFile, Metadata};

/// Why models with an encoder are refused.
pub(super) const ENCODER: &str = "it has an encoder that reads the whole text first, as T5 has; \
     only models that continue a text can generate";

/// Why diffusion models are refused.
pub(super) const DIFFUSION: &str =
    "it generates by diffusion; only models that generate token by token are supported";

/// llama.cpp's `LLAMA_MAX_LAYERS`.
const MAX_LAYERS: u64 = 512;
/// llama.cpp's `LLAMA_MAX_EXPERTS`.
const MAX_EXPERTS: u64 = 1_024;
/// Maximum of heads, widths and similar sizes, far above real ones; products must fit 32 bits.
const MAX_SIZE: u64 = 1 << 24;

/// Architectures that are parts of other models.
const PARTS: &[&str] = &["clip", "dflash", "eagle3", "gemma4-assistant", "wavtokenizer-dec"];

/// The architecture's name.
///
/// # Errors
/// When the key is missing.
pub(super) fn architecture(gguf: &GgufFile) -> Result<&str, EngineError> {
    Ok(gguf.metadata().string("general.architecture")?)
}

/// Refuses files that llama.cpp must not load.
///
/// # Errors
/// [`EngineError::InvalidModel`] naming the key, and [`EngineError::Unsupported`].
pub(super) fn check(gguf: &GgufFile, wanted: Role) -> Result<(), EngineError> {
    let architecture = architecture(gguf)?;
    match (wanted, Role::of_gguf(gguf)?) {
        (Role::Generates, Role::Embeds) => {
            let problem =
                format!("`{architecture}` is an embedding model: it cannot generate text");
            return Err(unsupported(gguf, &problem));
        }
        (Role::Embeds, Role::Generates) => {
            let problem = "it generates text: it is not an embedding model";
            return Err(unsupported(gguf, problem));
        }
        _ => {}
    }
    if PARTS.contains(&architecture) {
        let problem = format!("`{architecture}` is a part of other models and cannot run alone");
        return Err(unsupported(gguf, &problem));
    }
    if architecture == "t5" {
        return Err(unsupported(gguf, ENCODER));
    }
    if gguf.metadata().u32_opt("split.no")?.is_some_and(|part| part > 0) {
        let problem = "it is a later part of a model that is split over several files; \
             name the first part, and llama.cpp finds the others in the same folder";
        return Err(unsupported(gguf, problem));
    }
    // The first part of a split model may hold the header alone.
    if gguf.tensors().is_empty() && gguf.part_count() == 1 {
        return Err(invalid(gguf, "it has no tensors: only a vocabulary".to_owned()));
    }
    Header { gguf, architecture }.check()?;
    tensors(gguf)
}

/// The keys of one architecture.
struct Header<'a> {
    gguf: &'a GgufFile,
    architecture: &'a str,
}

impl Header<'_> {
    fn check(&self) -> Result<(), EngineError> {
        self.size("block_count", 1, MAX_LAYERS)?;
        let width = self.size("embedding_length", 1, MAX_SIZE)?;
        self.size("context_length", 1, u64::from(u32::MAX >> 1))?;
        for key in ["feed_forward_length", "vocab_size"] {
            self.size_opt(key, 0, MAX_SIZE)?;
        }
        for key in ["attention.key_length", "attention.value_length", "rope.dimension_count"] {
            self.size_opt(key, 1, MAX_SIZE)?;
        }
        self.heads(width)?;
        self.experts()?;
        for key in ["attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"] {
            self.not_negative(key)?;
        }
        for key in ["rope.scaling.factor", "rope.scale_linear"] {
            self.not_negative(key)?;
        }
        if let Some(base) = self.metadata().f32_opt(&self.key("rope.freq_base"))?
            && base <= 0.0
        {
            let problem = format!("{base}, expected a positive number");
            return Err(self.invalid("rope.freq_base", problem));
        }
        if let Some(scaling) = self.gguf.metadata().string_opt(&self.key("rope.scaling.type"))? {
            let known = ["none", "linear", "yarn", "longrope"];
            if !known.contains(&scaling) {
                let problem = format!("`{scaling}`, expected one of {}", known.join(", "));
                return Err(self.invalid("rope.scaling.type", problem));
            }
        }
        Ok(())
    }

    /// The file gives the number of heads once or per layer. Recurrent layers have none.
    fn heads(&self, width: u64) -> Result<(), EngineError> {
        let heads = self.per_layer("attention.head_count")?;
        let kv_heads = self.per_layer("attention.head_count_kv")?;
        let has_key_length = self.metadata().get(&self.key("attention.key_length")).is_some();
        for layer in 0..heads.len().max(kv_heads.len()) {
            let of = |list: &[u64]| list.get(layer).or_else(|| list.first()).copied();
            let Some(heads) = of(&heads) else { continue };
            if heads > 0 && !has_key_length && !width.is_multiple_of(heads) {
                let problem = format!("{heads}, which does not divide the width of {width}");
                return Err(self.invalid("attention.head_count", problem));
            }
            let Some(kv_heads) = of(&kv_heads) else { continue };
            if kv_heads > 0 && !heads.is_multiple_of(kv_heads) {
                let problem = format!("{kv_heads}, which does not divide the {heads} heads");
                return Err(self.invalid("attention.head_count_kv", problem));
            }
        }
        Ok(())
    }

    fn experts(&self) -> Result<(), EngineError> {
        let experts = self.size_opt("expert_count", 0, MAX_EXPERTS)?.unwrap_or(0);
        let groups = self.size_opt("expert_group_count", 0, MAX_EXPERTS)?.unwrap_or(0);
        for used in self.per_layer("expert_used_count")? {
            if used > experts {
                let problem = format!("{used} of {experts} experts");
                return Err(self.invalid("expert_used_count", problem));
            }
        }
        if groups > 0 && (groups >= experts || !experts.is_multiple_of(groups)) {
            let problem = format!("{groups} groups of {experts} experts");
            return Err(self.invalid("expert_group_count", problem));
        }
        Ok(())
    }

    fn metadata(&self) -> &Metadata {
        self.gguf.metadata()
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn invalid(&self, key: &str, problem: String) -> EngineError {
        self.metadata().invalid(&self.key(key), problem).into()
    }

    fn size(&self, key: &str, min: u64, max: u64) -> Result<u64, EngineError> {
        match self.size_opt(key, min, max)? {
            Some(size) => Ok(size),
            None => {
                let problem = format!("metadata key `{}` is missing", self.key(key));
                Err(invalid(self.gguf, problem))
            }
        }
    }

    fn size_opt(&self, key: &str, min: u64, max: u64) -> Result<Option<u64>, EngineError> {
        let sizes = self.per_layer(key)?;
        match sizes.iter().find(|size| !(min..=max).contains(size)) {
            Some(size) => Err(self.invalid(key, format!("{size}, expected {min} to {max}"))),
            None => Ok(sizes.first().copied()),
        }
    }

    /// A key that holds one number, or a list of one for each layer; none when it is absent.
    fn per_layer(&self, key: &str) -> Result<Vec<u64>, EngineError> {
        let name = self.key(key);
        let sizes = self.metadata().u32_list(&name)?;
        if sizes.len() as u64 > MAX_LAYERS {
            let problem = format!("{} numbers, expected {MAX_LAYERS} at most", sizes.len());
            return Err(self.invalid(key, problem));
        }
        Ok(sizes.into_iter().map(u64::from).collect())
    }

    fn not_negative(&self, key: &str) -> Result<(), EngineError> {
        match self.metadata().f32_opt(&self.key(key))? {
            Some(value) if !(value.is_finite() && value >= 0.0) => {
                Err(self.invalid(key, format!("{value}, expected a number from 0")))
            }
            _ => Ok(()),
        }
    }
}

/// Refuses tensor types that ggml cannot compute with.
///
/// ggml adds and multiplies norms and biases as floats only, and has no products for some types.
fn tensors(gguf: &GgufFile) -> Result<(), EngineError> {
    const NO_WEIGHTS: [&str; 6] = ["I8", "I16", "I64", "F64", "Q8_1", "Q8_K"];
    for tensor in gguf.tensors() {
        let (name, kind) = (&tensor.name, tensor.ggml_type);
        let is_vector = tensor.shape.iter().filter(|&&size| size > 1).count() <= 1;
        let is_float = [GgmlType::F32, GgmlType::F16, GgmlType::BF16].contains(&kind);
        if is_vector && name.ends_with("norm.weight") && !is_float {
            let problem = format!("tensor `{name}` is stored as {kind}, expected F32");
            return Err(invalid(gguf, problem));
        }
        if name.ends_with(".weight") && NO_WEIGHTS.contains(&kind.name()) {
            let problem = format!("tensor `{name}` is stored as {kind}, which holds no weights");
            return Err(invalid(gguf, problem));
        }
    }
    Ok(())
}

fn invalid(gguf: &GgufFile, problem: String) -> EngineError {
    EngineError::InvalidModel { file: gguf.path().to_owned(), problem }
}

/// The error for a valid file that this engine cannot run.
pub(super) fn unsupported(gguf: &GgufFile, problem: &str) -> EngineError {
    EngineError::Unsupported { file: gguf.path().to_owned(), problem: problem.to_owned() }
}
