//! Sim engine: a deterministic engine for tests that delays, fails, hangs, panics and aborts.
//!
//! Owns the engine of model folders whose `config.json` says `"model_type": "sim"`. Its text
//! depends on the prompt alone, so that completions can be told apart and compared. Only builds
//! with the feature `sim` have it; the product does not. The scheduler uses it like any other
//! engine.

pub mod config;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::limits;
use ingle_protocol::wire::models::EngineKind;

pub use self::config::SimConfig;
use super::backend::{
    Builder, Capacity, Embedder, EmbedderBuilder, Generator, ModelInfo, Row, SeqId, Ticket,
    TrimOutcome, not_open,
};
use super::engines::{Engine, LoadStart, LoadTarget, cannot_run};
use super::error::EngineError;
use super::estimate::Estimate;
use super::loader::{self, LoadItem, LoadStream};
use super::model::{EngineModel, Weights};
use super::role::Role;
use super::sampling::{self, SampleSpec, SampledToken};
use super::settings::EngineSettings;
use super::tensor::{HostData, HostTensor};

/// The token that ends a text (see `text::tokenizer::ByteTokenizer`).
const END_TOKEN: u32 = 257;

/// Logit of the next token of the model's own text, when a mask requires sampling.
const OWN_TEXT_LOGIT: f32 = 20.0;

/// Logit of any other token, when a mask requires sampling.
///
/// Tokens that end a part of a JSON text are likelier than those that begin one, so that a
/// constrained completion comes to an end.
fn fallback_logit(token: u32) -> f32 {
    match u8::try_from(token) {
        Ok(b'}' | b']') => 12.0,
        Ok(b'"') => 10.0,
        Ok(b':' | b',') => 8.0,
        Ok(b'0'..=b'9') => 6.0,
        Ok(b'!'..=b'~') => 4.0,
        _ => 0.0,
    }
}

/// The completion of a sim model without a `reply`: words chosen by a hash of the prompt.
fn text_for(prompt: &[u32], words: usize) -> String {
    const WORDS: [&str; 16] = [
        "ash", "birch", "coal", "draught", "ember", "flame", "glow", "hearth", "iron", "kindle",
        "log", "match", "oak", "poker", "smoke", "spark",
    ];
    // FNV-1a, then a linear congruential step for each word.
    let hash = prompt.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &token| {
        (hash ^ u64::from(token)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut state = hash;
    let mut text = format!("{hash:016x}:");
    for _ in 0..words {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let word = usize::try_from(state >> 60).unwrap_or(0) % WORDS.len();
        text.push(' ');
        text.push_str(WORDS[word]);
    }
    text
}

/// The sim engine.
#[derive(Debug, Clone, Copy)]
pub struct SimEngine;

impl Engine for SimEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Sim
    }

    fn start_load(
        &self,
        model: &EngineModel,
        _settings: &EngineSettings,
        cancel: Arc<AtomicBool>,
    ) -> Result<LoadStart, EngineError> {
        let Weights::Sim(config) = &model.weights else { return Err(cannot_run(model)) };
        let config = (**config).clone();
        Ok(match model.role {
            Role::Generates => {
                let (builder, stream) = load(config, cancel)?;
                LoadStart { target: LoadTarget::Generator(builder), stream }
            }
            Role::Embeds => {
                let (builder, stream) = load_embedder(config, cancel)?;
                LoadStart { target: LoadTarget::Embedder(builder), stream }
            }
        })
    }

    fn estimate(&self, model: &EngineModel, _settings: &EngineSettings) -> Estimate {
        let Weights::Sim(config) = &model.weights else {
            return Estimate::unknown(EngineKind::Sim, 0);
        };
        Estimate {
            engine: EngineKind::Sim,
            weights: config.weight_bytes,
            overhead: 0,
            staging: 0,
            kv_per_token: config.kv_bytes_per_token,
            kv_up_front: false,
            context_tokens: config.context_tokens,
        }
    }
}

/// Starts a load: a few tensors, empty or not, spread over the delay.
///
/// # Errors
/// When the operating system cannot start the thread.
fn load(
    config: SimConfig,
    cancel: Arc<AtomicBool>,
) -> Result<(Box<dyn Builder>, LoadStream), EngineError> {
    let stream = spawn_load(&config, cancel)?;
    Ok((Box::new(SimBuilder { config, weights: Vec::new() }), stream))
}

/// Starts the load of an embedding model, whose vectors are derived from a text's tokens.
///
/// # Errors
/// When the operating system cannot start the thread.
fn load_embedder(
    config: SimConfig,
    cancel: Arc<AtomicBool>,
) -> Result<(Box<dyn EmbedderBuilder>, LoadStream), EngineError> {
    let stream = spawn_load(&config, cancel)?;
    Ok((Box::new(SimEmbedderBuilder(config)), stream))
}

fn spawn_load(config: &SimConfig, cancel: Arc<AtomicBool>) -> Result<LoadStream, EngineError> {
    const TENSOR_BYTES: u64 = 32 << 20;
    let weight_bytes = if config.allocate { config.weight_bytes } else { 0 };
    let steps = u32::try_from(weight_bytes / TENSOR_BYTES).unwrap_or(u32::MAX).max(10);
    let values = usize::try_from(weight_bytes / u64::from(steps) / 4).unwrap_or(0);
    let pause = Duration::from_millis(config.load_delay_ms) / steps;
    let fail = config.fail_load;
    loader::spawn_work(cancel, move |sink| {
        for step in 1..=steps {
            std::thread::sleep(pause);
            let name = format!("step.{step}");
            // Not zeros, for which the system would not allocate memory.
            let data = HostData::F32(vec![1.0; values]);
            let tensor = HostTensor { name, shape: vec![values], data };
            let (bytes_read, bytes_total) = (u64::from(step), u64::from(steps));
            let bytes = tensor.bytes() as u64;
            sink.send(LoadItem::Tensor { tensor, bytes_read, bytes_total }, bytes)?;
        }
        if fail {
            return Err(EngineError::Native("this model was told to fail".to_owned()).into());
        }
        Ok(())
    })
}

#[expect(clippy::panic, reason = "the fault this engine exists to inject")]
fn injected_panic(at: usize) -> ! {
    panic!("the sim model was told to panic at token {at}")
}

struct SimBuilder {
    config: SimConfig,
    weights: Vec<HostTensor>,
}

impl Builder for SimBuilder {
    fn adopt(&mut self, tensor: HostTensor) -> Result<(), EngineError> {
        self.weights.push(tensor);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn Generator>, EngineError> {
        let weight_bytes = self.config.weight_bytes;
        Ok(Box::new(SimGenerator {
            config: self.config,
            info: ModelInfo { architecture: "sim".to_owned(), vocab_size: 258, weight_bytes },
            _weights: self.weights,
            sequences: BTreeMap::new(),
            next_id: 0,
            pass: Vec::new(),
            specs: Vec::new(),
            prompt_tokens: 0,
        }))
    }
}

/// One sequence: all its tokens.
#[derive(Debug, Clone, Default)]
struct SimSequence {
    tokens: Vec<u32>,
    /// The completion and the number of bytes sent; set when the first token is sampled.
    reply: Option<(Vec<u8>, usize)>,
    /// Memory allocated for its KV cache, if memory is allocated at all.
    kv: Vec<u8>,
}

struct SimGenerator {
    config: SimConfig,
    info: ModelInfo,
    /// Kept for the memory they occupy.
    _weights: Vec<HostTensor>,
    sequences: BTreeMap<SeqId, SimSequence>,
    next_id: u64,
    /// Sequences of the present pass that want logits.
    pass: Vec<SeqId>,
    /// The sample specs of those sequences.
    specs: Vec<SampleSpec>,
    /// Prompt tokens read so far.
    prompt_tokens: u64,
}

impl SimGenerator {
    fn sequence(&mut self, seq: SeqId) -> Result<&mut SimSequence, EngineError> {
        self.sequences.get_mut(&seq).ok_or_else(|| not_open(seq))
    }

    fn insert(&mut self, sequence: SimSequence) -> SeqId {
        self.next_id += 1;
        self.sequences.insert(SeqId(self.next_id), sequence);
        SeqId(self.next_id)
    }

    /// The next token of one sequence, or the fault that its configuration injects.
    fn draw(&mut self, seq: SeqId, spec: &SampleSpec) -> Result<SampledToken, EngineError> {
        let config = self.config.clone();
        let vocab_size = self.info.vocab_size;
        let sequence = self.sequence(seq)?;
        if sequence.reply.is_none() {
            let reply = config.reply.clone();
            let text = reply.unwrap_or_else(|| text_for(&sequence.tokens, config.words));
            sequence.reply = Some((text.into_bytes(), 0));
        }
        let Some((text, said)) = &mut sequence.reply else {
            return Err(EngineError::Native("no reply".to_owned()));
        };
        let token = text.get(*said).map_or(END_TOKEN, |&byte| u32::from(byte));
        *said += 1;
        let at = Some(*said);
        if config.abort_at == at {
            std::process::abort();
        }
        if config.panic_at == at {
            injected_panic(*said);
        }
        if config.hang_at == at {
            loop {
                std::thread::park();
            }
        }
        if config.fail_at == at {
            return Err(EngineError::Native(format!(
                "this model was told to fail at token {said}"
            )));
        }
        let position = sequence.tokens.len() - 1;
        if config.logits.is_empty() && spec.mask.is_none() {
            return Ok(SampledToken { token, logprob: 0.0, top: vec![(token, 0.0)] });
        }
        if config.logits.is_empty() {
            let mut logits: Vec<f32> =
                (0..vocab_size).map(|id| fallback_logit(id as u32)).collect();
            logits[token as usize] = OWN_TEXT_LOGIT;
            let sampled = sampling::sample(&logits, spec);
            if sampled.as_ref().is_ok_and(|sampled| sampled.token != token) {
                *said -= 1;
            }
            return sampled.map_err(|error| EngineError::of_sampling(error, position));
        }
        let mut logits = vec![f32::NEG_INFINITY; vocab_size];
        for (&character, &logit) in &config.logits {
            if let Some(slot) = logits.get_mut(character as usize) {
                *slot = logit;
            }
        }
        sampling::sample(&logits, spec).map_err(|error| EngineError::of_sampling(error, position))
    }
}

impl Generator for SimGenerator {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capacity(&self) -> Capacity {
        Capacity {
            sequences: limits::CONCURRENT_GENERATIONS,
            context_tokens: self.config.context_tokens,
        }
    }

    fn open(&mut self) -> Result<SeqId, EngineError> {
        let sequences = self.capacity().sequences;
        if self.sequences.len() >= sequences {
            return Err(EngineError::NoCapacity { sequences });
        }
        Ok(self.insert(SimSequence::default()))
    }

    fn fork(&mut self, seq: SeqId, len: usize) -> Result<SeqId, EngineError> {
        let mut copy = self.sequence(seq)?.clone();
        copy.tokens.truncate(len);
        copy.reply = None;
        Ok(self.insert(copy))
    }

    fn trim(&mut self, seq: SeqId, len: usize) -> Result<TrimOutcome, EngineError> {
        let sequence = self.sequence(seq)?;
        sequence.tokens.truncate(len);
        sequence.reply = None;
        Ok(TrimOutcome::Done)
    }

    fn close(&mut self, seq: SeqId) {
        self.sequences.remove(&seq);
    }

    fn bytes(&self, seq: SeqId) -> u64 {
        let tokens = self.sequences.get(&seq).map_or(0, |sequence| sequence.tokens.len());
        self.config.kv_bytes_per_token.saturating_mul(tokens as u64)
    }

    fn kv_bytes_per_token(&self) -> u64 {
        self.config.kv_bytes_per_token
    }

    fn kv_bytes(&self) -> u64 {
        self.sequences.keys().map(|&seq| self.bytes(seq)).sum()
    }

    fn forward(&mut self, rows: &[Row<'_>]) -> Result<Ticket, EngineError> {
        let mut prompt_tokens = 0;
        self.pass.clear();
        for row in rows {
            let per_token = if self.config.allocate { self.config.kv_bytes_per_token } else { 0 };
            let sequence = self.sequence(row.seq)?;
            sequence.tokens.extend_from_slice(row.tokens);
            let kv_bytes = per_token.saturating_mul(sequence.tokens.len() as u64);
            sequence.kv.resize(usize::try_from(kv_bytes).unwrap_or(0), 1);
            if sequence.reply.is_none() {
                prompt_tokens += row.tokens.len() as u64;
            }
            if row.wants_logits {
                self.pass.push(row.seq);
            }
        }
        self.prompt_tokens += prompt_tokens;
        if self.config.prompt_tokens.is_some_and(|limit| self.prompt_tokens > limit) {
            return Err(EngineError::Native("this model was told to read no more".to_owned()));
        }
        let decode_ms = if self.pass.is_empty() { 0 } else { self.config.token_delay_ms };
        let delay_ms = decode_ms + prompt_tokens * self.config.prompt_token_delay_ms;
        std::thread::sleep(Duration::from_millis(delay_ms));
        Ok(Ticket(0))
    }

    fn sample(&mut self, _ticket: &Ticket, specs: &[SampleSpec]) -> Result<(), EngineError> {
        if specs.len() == self.pass.len() {
            self.specs = specs.to_vec();
            Ok(())
        } else {
            Err(EngineError::Native("as many specs as rows are needed".to_owned()))
        }
    }

    fn collect(
        &mut self,
        _ticket: Ticket,
    ) -> Result<Vec<Result<SampledToken, EngineError>>, EngineError> {
        let pass = std::mem::take(&mut self.pass);
        let specs = std::mem::take(&mut self.specs);
        Ok(pass.into_iter().zip(&specs).map(|(seq, spec)| self.draw(seq, spec)).collect())
    }
}

struct SimEmbedderBuilder(SimConfig);

impl EmbedderBuilder for SimEmbedderBuilder {
    fn finish(self: Box<Self>) -> Result<Box<dyn Embedder>, EngineError> {
        let weight_bytes = self.0.weight_bytes;
        let info = ModelInfo { architecture: "sim".to_owned(), vocab_size: 258, weight_bytes };
        Ok(Box::new(SimEmbedder { config: self.0, info }))
    }
}

struct SimEmbedder {
    config: SimConfig,
    info: ModelInfo,
}

impl Embedder for SimEmbedder {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn context_tokens(&self) -> usize {
        self.config.context_tokens
    }

    fn dimensions(&self) -> usize {
        2
    }

    fn overhead_bytes(&self) -> u64 {
        0
    }

    fn embed(&mut self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, EngineError> {
        let tokens: u64 = texts.iter().map(|text| text.len() as u64).sum();
        std::thread::sleep(Duration::from_millis(tokens * self.config.prompt_token_delay_ms));
        // Directions on a circle, by the sum of the tokens.
        let vector = |text: &&[u32]| {
            let sum = text.iter().fold(0_u32, |sum, &token| sum.wrapping_add(token));
            let angle = f32::from(u16::try_from(sum % 1_000).unwrap_or(0));
            vec![angle.cos(), angle.sin()]
        };
        Ok(texts.iter().map(vector).collect())
    }
}
