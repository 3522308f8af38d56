//! Tiny models as GGUF files, and their way through a load.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use llama_guard::{LoadOptions, Model};
use tempfile::NamedTempFile;

use super::plain;
use crate::load::{self, with_context};
use ingle_engine::backend::Generator;
use ingle_engine::error::EngineError;
use ingle_engine::loader::LoadItem;
use ingle_engine::settings::EngineSettings;
use ingle_engine::tensor::HostData;
use ingle_formats::gguf::GgufFile;
use ingle_formats::gguf::testing::GgufWriter;

/// A tensor's name with its shape, outermost first, and its values.
pub(super) type Tensor = ((String, Vec<u64>), Vec<f32>);

/// A model that has not been written yet.
pub(super) struct ModelFile {
    pub(super) writer: GgufWriter,
}

/// The weights of the plain llama.
pub(super) fn tensors_of(tied: bool) -> Vec<Tensor> {
    let tensors = plain::weights(tied).into_iter().map(|tensor| {
        let HostData::F32(values) = tensor.data else { panic!("32-bit floats") };
        let shape = tensor.shape.iter().map(|&size| size as u64).collect();
        ((tensor.name, shape), values)
    });
    tensors.collect()
}

/// The plain llama's header, without tensors.
pub(super) fn llama_header() -> GgufWriter {
    GgufWriter::new()
        .string("general.architecture", "llama")
        .u32("llama.block_count", plain::LAYERS as u32)
        .u32("llama.embedding_length", plain::HIDDEN as u32)
        .u32("llama.feed_forward_length", plain::INTERMEDIATE as u32)
        .u32("llama.attention.head_count", plain::HEADS as u32)
        .u32("llama.attention.head_count_kv", plain::KV_HEADS as u32)
        .u32("llama.attention.key_length", plain::HEAD_DIM as u32)
        .u32("llama.attention.value_length", plain::HEAD_DIM as u32)
        .u32("llama.rope.dimension_count", plain::HEAD_DIM as u32)
        .u32("llama.vocab_size", plain::VOCAB as u32)
        .u32("llama.context_length", plain::CONTEXT as u32)
        .f32("llama.attention.layer_norm_rms_epsilon", plain::EPS)
        .f32("llama.rope.freq_base", plain::ROPE_BASE)
        .string("tokenizer.ggml.model", "no_vocab")
}

/// The plain llama.
pub(super) fn llama(tied: bool) -> ModelFile {
    ModelFile::llama_of(&tensors_of(tied))
}

/// Seeded values of tensors: shape, how far they spread, and around what.
pub(super) fn seeded(mut state: u64) -> impl FnMut(&[u64], f32, f32) -> Vec<f32> {
    move |shape, scale, offset| {
        (0..shape.iter().product::<u64>())
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                offset + scale * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
            })
            .collect()
    }
}

/// A recurrent model with one layer.
pub(super) fn mamba() -> ModelFile {
    const WIDTH: u64 = 16;
    const INNER: u64 = 2 * WIDTH;
    const STATE: u64 = 16;
    const CONV: u64 = 4;
    const RANK: u64 = 2;
    let vocab = plain::VOCAB as u64;
    let mut values = seeded(7);
    let mut writer = GgufWriter::new()
        .string("general.architecture", "mamba")
        .u32("mamba.block_count", 1)
        .u32("mamba.embedding_length", WIDTH as u32)
        .u32("mamba.feed_forward_length", 0)
        .u32("mamba.attention.head_count", 0)
        .u32("mamba.context_length", plain::CONTEXT as u32)
        .u32("mamba.vocab_size", plain::VOCAB as u32)
        .u32("mamba.ssm.conv_kernel", CONV as u32)
        .u32("mamba.ssm.inner_size", INNER as u32)
        .u32("mamba.ssm.state_size", STATE as u32)
        .u32("mamba.ssm.time_step_rank", RANK as u32)
        .f32("mamba.attention.layer_norm_rms_epsilon", 1e-5)
        .string("tokenizer.ggml.model", "no_vocab");
    for (name, shape, scale, offset) in [
        ("token_embd.weight", &[vocab, WIDTH][..], 1.0, 0.0),
        ("output_norm.weight", &[WIDTH], 0.3, 1.0),
        ("blk.0.attn_norm.weight", &[WIDTH], 0.3, 1.0),
        ("blk.0.ssm_in.weight", &[2 * INNER, WIDTH], 0.4, 0.0),
        ("blk.0.ssm_conv1d.weight", &[INNER, CONV], 0.5, 0.0),
        ("blk.0.ssm_conv1d.bias", &[INNER], 0.1, 0.0),
        ("blk.0.ssm_x.weight", &[RANK + 2 * STATE, INNER], 0.4, 0.0),
        ("blk.0.ssm_dt.weight", &[INNER, RANK], 0.5, 0.0),
        ("blk.0.ssm_dt.bias", &[INNER], 0.1, 0.0),
        ("blk.0.ssm_a", &[INNER, STATE], 0.4, -0.6),
        ("blk.0.ssm_d", &[INNER], 0.3, 1.0),
        ("blk.0.ssm_out.weight", &[WIDTH, INNER], 0.4, 0.0),
    ] {
        writer = writer.f32_tensor(name, shape, &values(shape, scale, offset));
    }
    ModelFile { writer }
}

impl ModelFile {
    /// A llama with these tensors.
    pub(super) fn llama_of(tensors: &[Tensor]) -> Self {
        Self { writer: llama_header() }.with(tensors)
    }

    /// The same file with more tensors.
    pub(super) fn with(mut self, tensors: &[Tensor]) -> Self {
        for ((name, shape), values) in tensors {
            self.writer = self.writer.f32_tensor(name, shape, values);
        }
        self
    }

    /// One thread is enough, and the sizes of the tests are those they name.
    pub(super) fn settings(context_tokens: usize) -> EngineSettings {
        EngineSettings {
            threads: Some(1),
            gguf_context_tokens: context_tokens,
            ..EngineSettings::default()
        }
    }

    /// The file, as long as it is needed, and its header.
    pub(super) fn write(&self) -> (NamedTempFile, Arc<GgufFile>) {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&self.writer.bytes()).unwrap();
        let gguf = Arc::new(GgufFile::open(file.path()).unwrap());
        (file, gguf)
    }

    /// Loads it as the daemon does.
    pub(super) fn load(&self) -> Result<Box<dyn Generator>, EngineError> {
        let (_file, gguf) = self.write();
        load_file(&gguf, plain::CONTEXT)
    }

    /// Loads it as the daemon does.
    pub(super) fn generator(&self) -> Box<dyn Generator> {
        self.load().unwrap()
    }

    /// The same with another pool, and fewer tokens to a batch.
    pub(super) fn generator_of(&self, pool_tokens: usize, batch: u32) -> Box<dyn Generator> {
        let (_file, gguf) = self.write();
        let model = Model::load(gguf.path(), &LoadOptions::default(), &mut |_| true).unwrap();
        let settings = Self::settings(pool_tokens);
        Box::new(with_context(&gguf, Arc::new(model), &settings, batch).unwrap())
    }

    /// What is wrong with it.
    pub(super) fn problem(&self) -> String {
        match self.load() {
            Ok(_) => panic!("the model was accepted"),
            Err(error @ (EngineError::InvalidModel { .. } | EngineError::Unsupported { .. })) => {
                error.to_string()
            }
            Err(other) => panic!("another kind of error: {other}"),
        }
    }
}

/// Loads a file as the daemon does.
pub(super) fn load_file(
    gguf: &Arc<GgufFile>,
    context_tokens: usize,
) -> Result<Box<dyn Generator>, EngineError> {
    let cancel = Arc::new(AtomicBool::new(false));
    let (builder, mut stream) = load::load(gguf, &ModelFile::settings(context_tokens), cancel)?;
    while let Some(item) = stream.next_within(Duration::from_secs(60)) {
        match item {
            LoadItem::Failed(error) => return Err(error),
            LoadItem::Tensor { .. } => panic!("a tensor"),
            LoadItem::Progress { bytes_read, bytes_total } => assert!(bytes_read <= bytes_total),
            LoadItem::Done => {}
        }
    }
    builder.finish()
}
