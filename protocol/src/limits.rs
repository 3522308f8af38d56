//! Limits: every maximum of queues, frames and concurrency, by name.
//!
//! Owns the numbers and the relations between them (asserted at compile time). A channel or queue
//! takes its bound from here, or from the limits of its own crate. Does not know where each one is
//! enforced.

/// Bytes of one frame on the socket, newline excluded.
pub const FRAME_BYTES: usize = 8 * 1024 * 1024;
/// Milliseconds without a byte after which a half-sent frame is given up.
pub const FRAME_STALL_MS: u64 = 10_000;
/// Requests one connection may have in flight.
pub const IN_FLIGHT_PER_CONNECTION: usize = 64;
/// Requests in one JSON-RPC batch.
pub const BATCH_REQUESTS: usize = 64;
/// Requests of a batch over that number which are refused each under its own id.
pub const REFUSED_BATCH_REQUESTS: usize = 1_024;
/// Bytes of the id that is looked for in a frame that cannot be read.
pub const SCANNED_ID_BYTES: usize = 256;
/// Connections at once.
pub const CONNECTIONS: usize = 256;
/// Replies and events waiting to be written to one connection.
pub const OUTBOUND_FRAMES: usize = 256;
/// Bytes waiting to be written to one connection above which no more are made.
pub const OUTBOUND_BYTES: usize = 256 * 1024;
/// Milliseconds one frame may take to be written to a peer that does not read.
pub const WRITE_STALL_MS: u64 = 30_000;

/// HTTP connections at once, over the socket and TCP each.
pub const HTTP_CONNECTIONS: usize = 256;
/// HTTP connections past those that are told so at once; further ones are closed without a word.
pub const HTTP_REFUSALS: usize = 64;
/// Milliseconds that telling one may take, the reading of what it sends included.
pub const HTTP_REFUSAL_MS: u64 = 1_000;
/// Bytes of what it sends that are read and thrown away, so that it sees the refusal.
pub const HTTP_REFUSAL_BYTES: u64 = 1024 * 1024;
/// Bytes of one HTTP request's body.
pub const HTTP_BODY_BYTES: usize = FRAME_BYTES;
/// Bytes of a body over that which are read and thrown away, so that its sender sees the refusal.
pub const HTTP_DISCARD_BYTES: usize = 8 * HTTP_BODY_BYTES;
/// Bytes of one HTTP request's line and headers.
pub const HTTP_HEADER_BYTES: usize = 64 * 1024;
/// Milliseconds an HTTP connection may take to send a request's headers, and may be idle.
pub const HTTP_HEADER_MS: u64 = 60_000;
/// Milliseconds without a byte after which an HTTP request's body is given up.
pub const HTTP_BODY_STALL_MS: u64 = FRAME_STALL_MS;
/// Milliseconds an HTTP request's whole body may take.
pub const HTTP_BODY_MS: u64 = 60_000;
/// Chunks of one streamed answer between its making and its connection.
pub const HTTP_STREAM_CHUNKS: usize = 16;
/// Milliseconds a stream that waits for a slot or a load keeps the chance to fail with a status.
pub const HTTP_COMMIT_MS: u64 = 1_000;
/// Milliseconds of silence after which a stream gets a comment, so that proxies do not cut it.
pub const HTTP_HEARTBEAT_MS: u64 = 5_000;
/// Milliseconds for which one listing of the models serves all who ask over HTTP.
pub const HTTP_MODELS_MS: u64 = 2_000;
/// Texts of one request for completions: its prompts times what it asks of each.
pub const HTTP_TEXTS: usize = 64;
/// Bytes of all bodies of HTTP requests that are being read.
pub const HTTP_BODIES_BYTES: usize = 8 * HTTP_BODY_BYTES;
/// Bytes of a body past which it is parsed where parsing stops nothing else.
pub const HTTP_BODY_PARSED_APART_BYTES: usize = 256 * 1024;

/// Commands on their way to the engine thread.
pub const ENGINE_COMMANDS: usize = 256;
/// Events of one request between the engine thread and its reader; past it text is coalesced.
pub const ENGINE_EVENTS: usize = 64;
/// Generations waiting for a slot.
pub const QUEUED_GENERATIONS: usize = 128;
/// Generations running at once.
pub const CONCURRENT_GENERATIONS: usize = 5;
/// Requests for embeddings that wait or run.
pub const QUEUED_EMBEDDINGS: usize = 64;
/// Texts of one request for embeddings: as many as OpenAI's API takes.
pub const EMBED_INPUTS: usize = 2_048;
/// Bytes of one of them.
pub const EMBED_INPUT_BYTES: usize = 256 * 1024;
/// Tokens of the texts that share a pass, with their padding; at least one text.
pub const EMBED_PASS_TOKENS: usize = 512;
/// Of a hundred tokens of a batch of texts so many at most are padding.
pub const EMBED_PADDING_PERCENT: usize = 25;
/// Loads waiting for memory that no request asked for, and callers waiting for one load.
pub const QUEUED_LOADS: usize = 64;
/// Milliseconds a request waits for memory before requests that came later are held back for it.
pub const MEMORY_PATIENCE_MS: u64 = 2_000;
/// How old the engine thread's status may be while it works and nothing begins or ends.
pub const STATUS_REFRESH_MS: u64 = 250;
/// What a refused request is told to wait, in milliseconds.
pub const RETRY_AFTER_MS: u64 = 1_000;
/// Tensors between the loader thread and the engine thread.
pub const LOADER_TENSORS: usize = 4;
/// Bytes of those tensors; a single larger tensor waits alone. A tied embedding in 32 bits is over
/// 100 MB, so the count of tensors alone would not bound memory well.
pub const LOADER_BYTES: u64 = 128 * 1024 * 1024;
/// Finished sequences of one model that are kept for prompts that begin alike.
pub const PROMPT_CACHE_SEQUENCES: usize = 4;
/// Bytes of their KV caches.
pub const PROMPT_CACHE_BYTES: u64 = 512 * 1024 * 1024;
/// Sequences of one GGUF model, running and kept; recurrent models have a state for each.
pub const GGUF_SEQUENCES: usize = 16;
/// Milliseconds the engine thread spends adopting tensors between two looks at its commands while
/// nothing else is to be done.
pub const ADOPT_SLICE_MS: u64 = 50;
/// Milliseconds of the same between two steps of running sequences: less than a step takes, so that
/// streams stay as smooth as a reader can tell.
pub const ADOPT_BETWEEN_STEPS_MS: u64 = 10;

/// Milliseconds that work beside the engine thread waits for it to leave a core: a pass of a model
/// that streams well.
pub const CORE_LOAN_WAIT_MS: u64 = 100;

/// Milliseconds after an unload at which an idle engine thread gives free memory back once more:
/// what the rest of the daemon held of the model has gone by then.
pub const TRIM_AFTER_MS: u64 = 1_000;

/// Milliseconds of silence after which the engine thread counts as stalled, unless configured.
pub const ENGINE_STALL_MS: u64 = 60_000;

/// Characters of what one call of an MCP tool gives a model to read, unless configured.
pub const TOOL_PROMPT_CHARS: usize = 20_000;
/// The most that the settings may say.
pub const MAX_TOOL_PROMPT_CHARS: usize = 1_000_000;
/// Entries of one page of an MCP listing, and values of one completion (MCP's own maximum).
pub const MCP_PAGE: usize = 100;
/// Resources that one MCP host may subscribe to.
pub const MCP_SUBSCRIPTIONS: usize = 64;
/// Streams of changes (`subscriptions/listen`) that one MCP host may have open.
pub const MCP_LISTENERS: usize = 8;
/// Characters of what an MCP host wrote that a message repeats.
pub const MCP_QUOTED_CHARS: usize = 200;
/// Bytes of vectors that a model gets as text, where its host knows nothing but text.
pub const MCP_TEXT_BYTES: usize = 256 * 1024;
/// Milliseconds between two notifications that one resource has changed.
pub const MCP_UPDATE_MS: u64 = 500;
/// Stop strings of one request.
pub const STOP_STRINGS: usize = 16;
/// Bytes of one stop string.
pub const STOP_STRING_BYTES: usize = 256;
/// Alternatives reported for one token.
pub const TOP_LOGPROBS: usize = 20;
/// Tokens that one request may bias.
pub const LOGIT_BIASES: usize = 1_024;
/// Bytes of the schema or grammar that a text is to follow.
pub const FORMAT_BYTES: usize = 64 * 1024;
/// Bytes of the schemas of tools that a call is held to, all together and without what only
/// describes.
pub const CALL_SCHEMA_BYTES: usize = 256 * 1024;
/// Milliseconds spent on finding out which of those schemas cannot be enforced.
pub const CALL_SCHEMAS_MS: u64 = 3_000;
/// References of such a schema, and rules of such a grammar: each is compiled inside of what names
/// it.
pub const FORMAT_REFERENCES: usize = 500;
/// How deep the brackets of such a grammar go.
pub const FORMAT_DEPTH: usize = 100;
/// Schemas that one schema may become when its alternatives are combined.
pub const FORMAT_ALTERNATIVES: usize = 1_000;
/// Formats that are prepared at once.
pub const FORMS_AT_ONCE: usize = 2;
/// Formats that are prepared or wait to be.
pub const QUEUED_FORMS: usize = 64;
/// Milliseconds that a step waits for the set of tokens a format allows. llguidance's own limits
/// end nearly all of its work long before.
pub const MASK_MS: u64 = 3_000;
/// Texts that one request may ask for.
pub const CHOICES: usize = 8;
/// Tokens generated when a request names no maximum: enough to think and then to answer. Not the
/// whole context, as memory for all of them is set aside before the first.
pub const DEFAULT_MAX_TOKENS: u32 = 4_096;
/// Messages of one conversation.
pub const MESSAGES: usize = 4_096;

/// Tools that one request may offer.
pub const TOOLS: usize = 128;
/// Bytes of their descriptions and schemas, as JSON.
pub const TOOL_BYTES: usize = 1024 * 1024;
/// Characters of a tool's name.
pub const TOOL_NAME_CHARS: usize = 64;
/// Calls that are read out of one answer; what looks like more of them stays text.
pub const TOOL_CALLS: usize = 128;
/// Bytes of what may be a tool call that are held back until it is known to be one.
pub const TOOL_CALL_HELD_BYTES: usize = 64 * 1024;
/// Variables that one request may give the chat template.
pub const TEMPLATE_OPTIONS: usize = 32;
/// Bytes of them, as JSON.
pub const TEMPLATE_OPTION_BYTES: usize = 64 * 1024;

/// Models whose header and tokenizer are kept in memory, loaded or not.
pub const OPEN_MODELS: usize = 8;

/// Models with metrics of their own; all others share one name.
pub const COUNTED_MODELS: usize = 32;

/// Bytes of a `tokenizer.json` that is read at all; the largest in use have about 35 MB.
pub const TOKENIZER_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of any other JSON file or template of a model; the largest in use have about 1 MB.
pub const MODEL_JSON_BYTES: u64 = 16 * 1024 * 1024;

/// Branches and tags that a pulled model remembers to have been asked for by.
pub const MODEL_REFS: usize = 16;
/// Files of one model folder that are looked at.
pub const MODEL_FOLDER_FILES: usize = 4_096;
/// Files and folders of one library of other programs' models that are looked at.
pub const LIBRARY_ENTRIES: usize = 20_000;
/// Folders below such a library's own that are looked into.
pub const LIBRARY_DEPTH: usize = 3;

/// Jobs that run at once when the settings do not say: a slot is left to whoever waits at a
/// terminal.
pub const JOB_WORKERS: usize = CONCURRENT_GENERATIONS - 1;
/// The most that the settings may say.
pub const MAX_JOB_WORKERS: usize = 64;
/// Jobs that wait for a worker or run.
pub const QUEUED_JOBS: usize = 1_000;
/// Bytes of their parameters, which are held in memory; each job counts for its share at least.
pub const QUEUED_JOB_BYTES: usize = 64 * 1024 * 1024;
/// Calls that became jobs and still run.
pub const PROMOTED_JOBS: usize = 256;
/// Commands on their way to the thread that holds the job store.
pub const JOB_STORE_COMMANDS: usize = 256;
/// Commands that share one transaction of the job store.
pub const JOB_STORE_BATCH: usize = 64;
/// Milliseconds between two writings of one job's partial result.
pub const JOB_PARTIAL_MS: u64 = 500;
/// Milliseconds between two reports of one job's progress to those who wait for it.
pub const JOB_REPORT_MS: u64 = 100;
/// Milliseconds before a job's end that could not be stored is tried again; each later attempt
/// waits twice as long, up to `JOB_STORE_RETRY_MAX_MS`.
pub const JOB_STORE_RETRY_MS: u64 = 500;
/// The longest of those pauses, in milliseconds.
pub const JOB_STORE_RETRY_MAX_MS: u64 = 15_000;
/// Milliseconds the job store waits for another program that has its file locked.
pub const JOB_STORE_BUSY_MS: u64 = 2_000;
/// Bytes of one job's result: a reply that carries it is one frame.
pub const JOB_RESULT_BYTES: usize = FRAME_BYTES - 256 * 1024;
/// Jobs of one listing.
pub const JOB_LIST: usize = 1_000;
/// Jobs of one listing that asks for no number.
pub const DEFAULT_JOB_LIST: usize = 100;
/// How often a job may ask to be run again after a timeout.
pub const JOB_RETRIES: u32 = 10;
/// What a job's time is multiplied by at most when it runs again.
pub const JOB_RETRY_FACTOR: f64 = 10.0;
/// What `none` as a job's timeout comes to, in milliseconds: a year. The stall limit is far
/// shorter.
pub const JOB_NO_TIMEOUT_MS: u64 = 365 * 24 * 60 * 60 * 1_000;
/// Milliseconds between two cleanings of the job store.
pub const JOB_SWEEP_MS: u64 = 60 * 60 * 1_000;
/// Milliseconds that the time between two cleanings counts for at most, whatever the clock says.
pub const JOB_SWEEP_GAP_MS: u64 = 24 * 60 * 60 * 1_000;

/// Progress events of one pull or load between its source and one waiter.
pub const PROGRESS_EVENTS: usize = 16;
/// Milliseconds the whole of a pull may take. A download that stands still ends long before.
pub const PULL_MS: u64 = 12 * 60 * 60 * 1_000;
/// Milliseconds of silence after which a connection to Hugging Face counts as lost, and those one
/// may take to come about.
pub const HUB_STALL_MS: u64 = 30_000;
/// Milliseconds before the first new attempt to reach Hugging Face; each later one waits twice as
/// long.
pub const HUB_RETRY_MS: u64 = 500;
/// Attempts in a row that bring nothing, after which a download is given up.
pub const HUB_ATTEMPTS: u32 = 5;
/// Redirects followed for one request.
pub const HUB_REDIRECTS: usize = 5;
/// Bytes of what Hugging Face says of a repository.
pub const HUB_LIST_BYTES: usize = 16 * 1024 * 1024;
/// Chunks of a download between the network and the disk.
pub const HUB_CHUNKS: usize = 16;
/// Days after which a download that nobody went on with is removed.
pub const HUB_PARTIAL_DAYS: u64 = 14;

/// Milliseconds a drain may take before work in flight is cancelled, and again before the process
/// ends without waiting for the engine thread.
pub const DRAIN_MS: u64 = 5_000;
/// Daily log files that are kept.
pub const LOG_FILES: usize = 7;

const _: () = {
    assert!(CONCURRENT_GENERATIONS + PROMPT_CACHE_SEQUENCES < GGUF_SEQUENCES);
    assert!(CONCURRENT_GENERATIONS <= QUEUED_GENERATIONS);
    assert!(ADOPT_BETWEEN_STEPS_MS < ADOPT_SLICE_MS);
    assert!(IN_FLIGHT_PER_CONNECTION <= OUTBOUND_FRAMES);
    assert!(BATCH_REQUESTS <= IN_FLIGHT_PER_CONNECTION);
    assert!(BATCH_REQUESTS <= REFUSED_BATCH_REQUESTS);
    assert!(JOB_RESULT_BYTES + MCP_TEXT_BYTES <= FRAME_BYTES);
    assert!(QUEUED_GENERATIONS + QUEUED_EMBEDDINGS <= ENGINE_COMMANDS);
    assert!(EMBED_INPUT_BYTES < FRAME_BYTES);
    assert!(CHOICES <= HTTP_TEXTS && HTTP_TEXTS <= QUEUED_GENERATIONS);
    assert!(HTTP_BODY_STALL_MS <= HTTP_BODY_MS && HTTP_COMMIT_MS <= HTTP_HEARTBEAT_MS);
    assert!(JOB_WORKERS >= 1 && JOB_WORKERS <= MAX_JOB_WORKERS);
    assert!(MAX_JOB_WORKERS < QUEUED_JOBS && FRAME_BYTES < QUEUED_JOB_BYTES);
    assert!(JOB_STORE_BATCH <= JOB_STORE_COMMANDS);
    assert!(JOB_RESULT_BYTES < FRAME_BYTES);
    assert!(DEFAULT_JOB_LIST <= JOB_LIST);
    assert!(TOOL_PROMPT_CHARS <= MAX_TOOL_PROMPT_CHARS);
    assert!(MAX_TOOL_PROMPT_CHARS * 4 < FRAME_BYTES);
    assert!(MCP_LISTENERS < IN_FLIGHT_PER_CONNECTION);
};
