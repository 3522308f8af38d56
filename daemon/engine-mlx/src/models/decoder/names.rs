//! Names of the decoder's modules in each file format.
//!
//! Owns the table. A module's tensors are its name with `.weight` or `.bias` after it.

/// Whose names the tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// Those of GGUF files.
    Gguf,
    /// Those of Hugging Face's transformers, which MLX keeps.
    HuggingFace,
}

/// The factors of Llama 3.1's rotation, a tensor of GGUF files.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// A module by both of its names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Module {
    gguf: &'static str,
    hugging_face: &'static str,
}

const fn module(gguf: &'static str, hugging_face: &'static str) -> Module {
    Module { gguf, hugging_face }
}

impl Module {
    pub(super) const EMBEDDING: Self = module("token_embd", "model.embed_tokens");
    pub(super) const NORM: Self = module("output_norm", "model.norm");
    pub(super) const HEAD: Self = module("output", "lm_head");

    pub(super) const ATTENTION_NORM: Self = module("attn_norm", "input_layernorm");
    pub(super) const QUERY: Self = module("attn_q", "self_attn.q_proj");
    pub(super) const KEY: Self = module("attn_k", "self_attn.k_proj");
    pub(super) const VALUE: Self = module("attn_v", "self_attn.v_proj");
    pub(super) const QUERY_NORM: Self = module("attn_q_norm", "self_attn.q_norm");
    pub(super) const KEY_NORM: Self = module("attn_k_norm", "self_attn.k_norm");
    pub(super) const ATTENTION_OUTPUT: Self = module("attn_output", "self_attn.o_proj");
    pub(super) const MLP_NORM: Self = module("ffn_norm", "post_attention_layernorm");
    pub(super) const GATE: Self = module("ffn_gate", "mlp.gate_proj");
    pub(super) const UP: Self = module("ffn_up", "mlp.up_proj");
    pub(super) const DOWN: Self = module("ffn_down", "mlp.down_proj");
}

impl Names {
    /// A module outside of the layers.
    pub(super) fn top(self, module: Module) -> &'static str {
        match self {
            Self::Gguf => module.gguf,
            Self::HuggingFace => module.hugging_face,
        }
    }

    /// A module of one layer.
    pub(super) fn layer(self, layer: usize, module: Module) -> String {
        match self {
            Self::Gguf => format!("blk.{layer}.{}", module.gguf),
            Self::HuggingFace => format!("model.layers.{layer}.{}", module.hugging_face),
        }
    }
}
