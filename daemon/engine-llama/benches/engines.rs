//! The llama.cpp engine against llama.cpp itself: the same file, threads and process.
//!
//! Both sides read a prompt and decode greedily, in turns. Ours goes through the engine thread, as a
//! request does: scheduling, chunks, sampling, detokenising. Theirs is a loop around `llama_decode`
//! with one batch for the prompt and an argmax. The best of several rounds counts on each side, since
//! everything else on the machine only ever slows them down.
//!
//! Usage: `cargo bench -p ingle-engine-llama --bench engines -- [--json] [--model FILE] [--rounds N]
//! [--prompt N] [--decode N] [--threads N] [--kept]`. The model is SmolLM2 from `INGLE_TEST_MODELS` when none
//! is named. With `--kept`, what the prompt cache holds of earlier rounds stays in the pool of ours.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    unsafe_code,
    reason = "a benchmark that cannot run ends, and the raw library is what it measures against"
)]

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ingle_engine::engines::{Engine, Engines};
use ingle_engine::model::{EngineModel, Weights};
use ingle_engine::role::Role;
use ingle_engine::sampling::{PenaltySettings, SamplerSettings};
use ingle_engine::settings::EngineSettings;
use ingle_engine_llama::{LlamaEngine, vocab};
use ingle_formats::gguf::GgufFile;
use ingle_protocol::deadline::Deadline;
use ingle_protocol::timeouts::Layer;
use ingle_protocol::wire::models::EngineKind;
use ingle_scheduler::command::{Command, Completion, GenerateRequest, RequestChoice};
use ingle_scheduler::crash_journal::CrashJournal;
use ingle_scheduler::handle::EngineHandle;
use ingle_scheduler::memory::{Budget, MemoryOptions, ModelOptions};
use ingle_text::TextModel;
use ingle_text::output::TextOutput;
use llama_cpp_sys_2 as llama;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// What is measured.
struct Options {
    json: bool,
    /// Whether what the prompt cache keeps of earlier rounds stays.
    kept: bool,
    model: PathBuf,
    rounds: usize,
    prompt: usize,
    decode: usize,
    threads: u32,
}

/// Tokens a second.
#[derive(Clone, Copy, Default)]
struct Rates {
    prompt: f64,
    decode: f64,
}

impl Rates {
    fn best(self, other: Self) -> Self {
        Self { prompt: self.prompt.max(other.prompt), decode: self.decode.max(other.decode) }
    }
}

fn main() {
    let options = options();
    let ours = Ours::start(&options);
    let theirs = Theirs::start(&options);
    let (mut best_ours, mut best_theirs) = (Rates::default(), Rates::default());
    // The first round warms both up.
    for round in 0..=options.rounds {
        let tokens = prompt(&options, round);
        // Who goes first gains or loses by it: they take turns.
        let (one, other) = if round.is_multiple_of(2) {
            let one = ours.run(&tokens, &options);
            (one, theirs.run(&tokens, &options))
        } else {
            let other = theirs.run(&tokens, &options);
            (ours.run(&tokens, &options), other)
        };
        if round > 0 {
            (best_ours, best_theirs) = (best_ours.best(one), best_theirs.best(other));
        }
    }
    report(&options, best_ours, best_theirs);
}

fn report(options: &Options, ours: Rates, theirs: Rates) {
    let (prompt, decode) = (ours.prompt / theirs.prompt, ours.decode / theirs.decode);
    if options.json {
        println!(
            "{{\"model\":{:?},\"threads\":{},\"prompt_tokens\":{},\"decode_tokens\":{},\"rounds\":{},\
             \"ours\":{{\"prompt_tokens_per_s\":{:.1},\"decode_tokens_per_s\":{:.1}}},\
             \"llama_cpp\":{{\"prompt_tokens_per_s\":{:.1},\"decode_tokens_per_s\":{:.1}}},\
             \"ratio\":{{\"prompt\":{prompt:.3},\"decode\":{decode:.3}}}}}",
            options.model.display().to_string(),
            options.threads,
            options.prompt,
            options.decode,
            options.rounds,
            ours.prompt,
            ours.decode,
            theirs.prompt,
            theirs.decode,
        );
        return;
    }
    println!(
        "{}, {} threads, {} + {} tokens, best of {} rounds",
        options.model.display(),
        options.threads,
        options.prompt,
        options.decode,
        options.rounds
    );
    println!("{:<20} {:>14} {:>14} {:>8}", "tokens a second", "ours", "llama.cpp", "ratio");
    println!("{:<20} {:>14.1} {:>14.1} {prompt:>8.3}", "prompt", ours.prompt, theirs.prompt);
    println!("{:<20} {:>14.1} {:>14.1} {decode:>8.3}", "decode", ours.decode, theirs.decode);
}

fn options() -> Options {
    let mut options = Options {
        json: false,
        kept: false,
        model: PathBuf::new(),
        rounds: 5,
        prompt: 512,
        decode: 128,
        threads: u32::try_from(llama_guard::physical_cores()).unwrap(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
        match word.as_str() {
            "--json" => options.json = true,
            "--kept" => options.kept = true,
            // cargo adds it.
            "--bench" => {}
            "--model" => options.model = PathBuf::from(value()),
            "--rounds" => options.rounds = value().parse().unwrap(),
            "--prompt" => options.prompt = value().parse().unwrap(),
            "--decode" => options.decode = value().parse().unwrap(),
            "--threads" => options.threads = value().parse().unwrap(),
            _ => panic!("unknown option {word}"),
        }
    }
    if options.model.as_os_str().is_empty() {
        let folder = std::env::var_os("INGLE_TEST_MODELS")
            .expect("--model names a GGUF file, or INGLE_TEST_MODELS the folder of test models");
        let files = std::fs::read_dir(Path::new(&folder).join("smollm2")).unwrap();
        let mut files = files.map(|entry| entry.unwrap().path());
        options.model = files.find(|path| path.extension().is_some_and(|e| e == "gguf")).unwrap();
    }
    options
}

/// Another prompt every round, from its first token on, so that no prompt cache helps.
fn prompt(options: &Options, round: usize) -> Vec<u32> {
    (0..options.prompt)
        .map(|index| u32::try_from(1_000 + (index * 37 + round * 101) % 9_000).unwrap())
        .collect()
}

/// The engine thread.
struct Ours {
    engine: EngineHandle,
    model: EngineModel,
    text: TextModel,
    runtime: tokio::runtime::Runtime,
}

impl Ours {
    fn start(options: &Options) -> Self {
        let settings =
            EngineSettings { threads: Some(options.threads), ..EngineSettings::default() };
        let gguf = Arc::new(GgufFile::open(&options.model).unwrap());
        let text = vocab::text_model(&gguf).unwrap();
        let memory = MemoryOptions { budget: Budget::Bytes(u64::MAX), ..MemoryOptions::default() };
        let home = tempfile::tempdir().unwrap();
        let journal = CrashJournal::open(&home.path().join("journal"), &home.path().join("deaths"));
        let (engine, _exit) = EngineHandle::spawn(
            Engines::new([Arc::new(LlamaEngine) as Arc<dyn Engine>]),
            settings,
            memory,
            journal,
        )
        .unwrap();
        let model = EngineModel {
            name: "bench".to_owned(),
            version: String::new(),
            engine: EngineKind::Gguf,
            role: Role::Generates,
            weights: Weights::Gguf(gguf),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { engine, model, text, runtime }
    }

    /// Loads the model anew, so that neither side's KV cache holds anything but this round's tokens.
    /// What the prompt cache keeps of earlier rounds lies in the pool that attention runs over.
    fn forget(&self) {
        let (done, unloaded) = oneshot::channel();
        self.engine.send(Command::Unload { name: self.model.name.clone(), done }).unwrap();
        unloaded.blocking_recv().unwrap().unwrap();
        let (progress, _progress) = mpsc::channel(64);
        let (done, loaded) = oneshot::channel();
        let (model, options) = (self.model.clone(), ModelOptions::default());
        let span = tracing::Span::current();
        self.engine
            .send(Command::Load { model, options, force: false, span, progress, done })
            .unwrap();
        loaded.blocking_recv().unwrap().unwrap();
    }

    fn run(&self, tokens: &[u32], options: &Options) -> Rates {
        if !options.kept {
            self.forget();
            // A new model's first chunk is small, until its speed is known.
            self.generate(&(500..564).collect::<Vec<_>>(), 1);
        }
        self.generate(tokens, options.decode)
    }

    fn generate(&self, tokens: &[u32], max_tokens: usize) -> Rates {
        let (events, mut received) = mpsc::channel(64);
        let (done, outcome) = oneshot::channel();
        let request = GenerateRequest {
            request_id: "bench".to_owned(),
            span: tracing::Span::current(),
            model: self.model.clone(),
            output: TextOutput::new(Arc::clone(&self.text.tokenizer), Vec::new()).unwrap(),
            constraint: None,
            end_tokens: Vec::new(),
            prompt: tokens.to_vec(),
            max_tokens,
            settings: SamplerSettings::GREEDY,
            penalties: PenaltySettings::NONE,
            logit_bias: Arc::default(),
            seed: 0,
            logprobs: None,
            stream_text: true,
            deadline: Deadline::new(Layer::Daemon, 600_000, None, Instant::now()),
            choice: RequestChoice::default(),
            finish_at_sentence: Arc::default(),
            cancel: CancellationToken::new(),
            events,
            done,
        };
        self.engine.send(Command::Generate(Box::new(request))).unwrap();
        let completion: Completion = self.runtime.block_on(async {
            while received.recv().await.is_some() {}
            outcome.await.unwrap().unwrap()
        });
        assert_eq!(completion.usage.completion_tokens, max_tokens);
        let timings = completion.timings;
        Rates { prompt: timings.prefill_tokens_per_s, decode: timings.decode_tokens_per_s }
    }
}

/// llama.cpp by itself.
struct Theirs {
    context: *mut llama::llama_context,
    vocab_size: usize,
}

impl Theirs {
    fn start(options: &Options) -> Self {
        let path = CString::new(options.model.to_str().unwrap()).unwrap();
        let threads = i32::try_from(options.threads).unwrap();
        // SAFETY: llama.cpp's own order of calls; everything lives until the process ends.
        unsafe {
            let model = llama::llama_model_load_from_file(
                path.as_ptr(),
                llama::llama_model_default_params(),
            );
            assert!(!model.is_null());
            let mut params = llama::llama_context_default_params();
            params.n_ctx = u32::try_from((options.prompt + options.decode).max(1_024)).unwrap();
            params.n_threads = threads;
            params.n_threads_batch = threads;
            let context = llama::llama_init_from_model(model, params);
            assert!(!context.is_null());
            let mut pool_params = llama::ggml_threadpool_params_default(threads);
            let pool = llama::ggml_threadpool_new(&raw mut pool_params);
            llama::llama_attach_threadpool(context, pool, pool);
            let vocab = llama::llama_model_get_vocab(model);
            let vocab_size = usize::try_from(llama::llama_vocab_n_tokens(vocab)).unwrap();
            Self { context, vocab_size }
        }
    }

    fn run(&self, tokens: &[u32], options: &Options) -> Rates {
        let mut tokens: Vec<i32> = tokens.iter().map(|&id| i32::try_from(id).unwrap()).collect();
        let started_at = Instant::now();
        // SAFETY: the context is alive and used by this thread only.
        unsafe { llama::llama_memory_clear(llama::llama_get_memory(self.context), true) };
        let mut token = self.step(&mut tokens);
        let prompt_s = started_at.elapsed().as_secs_f64();
        let started_at = Instant::now();
        for _ in 1..options.decode {
            token = self.step(&mut [token]);
        }
        let decode_s = started_at.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "token counts are small")]
        let rate = |count: usize, seconds: f64| count as f64 / seconds;
        Rates { prompt: rate(tokens.len(), prompt_s), decode: rate(options.decode - 1, decode_s) }
    }

    /// Decodes the tokens at the next positions; the likeliest token after them.
    fn step(&self, tokens: &mut [i32]) -> i32 {
        let count = i32::try_from(tokens.len()).unwrap();
        // SAFETY: the tokens outlive the call, and the logits are read before the next one.
        let logits = unsafe {
            let batch = llama::llama_batch_get_one(tokens.as_mut_ptr(), count);
            assert_eq!(llama::llama_decode(self.context, batch), 0);
            let logits = llama::llama_get_logits_ith(self.context, -1);
            std::slice::from_raw_parts(logits, self.vocab_size)
        };
        let mut best = 0;
        for (id, logit) in logits.iter().enumerate() {
            if *logit > logits[best] {
                best = id;
            }
        }
        i32::try_from(best).unwrap()
    }
}
