//! Gathers all metrics for one reading.
//!
//! Owns the names of the service's and the engine's metrics; `metrics` describes those of the edges.
//! Always from cached state: the engine thread is never asked.

use std::time::Instant;

use ingle_protocol::wire::metrics::{MetricsFormat, MetricsParams, MetricsReply};
use ingle_protocol::wire::models::LoadedModel;
use ingle_protocol::wire::status::{HealthState, Phase};

use crate::metrics::families::Families;
use crate::metrics::text;
use crate::service::Service;
use ingle_engine::counters::{EngineCounters, ModelCounters};
use ingle_engine::histogram::Histogram;
use ingle_scheduler::status::EngineStatus;

impl Service {
    /// All metrics in Prometheus' text format; its type is [`text::CONTENT_TYPE`].
    #[must_use]
    pub fn metrics_text(&self) -> String {
        text::render(&self.metric_families().into_inner())
    }

    /// All metrics in the requested format.
    #[must_use]
    pub fn metrics_reply(&self, params: MetricsParams) -> MetricsReply {
        let families = self.metric_families().into_inner();
        match params.format {
            MetricsFormat::Text => {
                MetricsReply { text: Some(text::render(&families)), families: None }
            }
            MetricsFormat::Families => MetricsReply { text: None, families: Some(families) },
        }
    }

    fn metric_families(&self) -> Families {
        let mut families = Families::default();
        let engine = self.engine.status();
        self.describe_daemon(&mut families);
        self.metrics.describe(&mut families);
        self.describe_timeouts(&mut families);
        describe_engine(&mut families, &engine);
        families
            .gauge("ingle_cores_lent", "Cores that the engine thread leaves to other work now.")
            .size([], self.engine.cores().reserved());
        self.describe_memory(&mut families, &engine);
        describe_models(&mut families, &engine);
        describe_work(&mut families, self.engine.counters());
        families
    }

    fn describe_daemon(&self, families: &mut Families) {
        let protocol = ingle_protocol::PROTOCOL_VERSION.to_string();
        families
            .gauge("ingle_build_info", "Always 1; its labels say which build this is.")
            .whole([("build", ingle_protocol::BUILD), ("protocol", &protocol)], 1);
        families
            .gauge("ingle_uptime_seconds", "Time since the daemon started.")
            .seconds([], self.started_at.elapsed());
        let health = self.health().state;
        let mut state = families.gauge("ingle_health", "1 for the state that the daemon is in.");
        for (name, is_it) in [
            ("ok", health == HealthState::Ok),
            ("degraded", health == HealthState::Degraded),
            ("draining", health == HealthState::Draining),
        ] {
            state.whole([("state", name)], u64::from(is_it));
        }
    }

    fn describe_timeouts(&self, families: &mut Families) {
        let mut timeouts = families.counter(
            "ingle_timeouts_total",
            "Limits that were reached, by class and by the layer that answered. Shim and client tell of theirs.",
        );
        for count in self.timeout_counters.all() {
            let labels = [("class", count.class.as_str()), ("layer", count.layer.as_str())];
            timeouts.count(labels, count.count);
        }
    }

    fn describe_memory(&self, families: &mut Families, engine: &EngineStatus) {
        families
            .gauge("ingle_memory_budget_bytes", "What all models may take together.")
            .whole([], engine.budget_bytes);
        families
            .gauge(
                "ingle_memory_used_bytes",
                "What models hold of the budget or have reserved of it.",
            )
            .whole([], engine.used_bytes);
        let resident = self.memory.last();
        families
            .gauge("ingle_memory_resident_bytes", "The daemon's resident memory, as last sampled.")
            .whole([], resident.bytes);
        families
            .gauge("ingle_memory_resident_peak_bytes", "The most it has been.")
            .whole([], resident.peak_bytes);
        let mut kinds = families.gauge(
            "ingle_model_memory_bytes",
            "What each loaded model holds: its weights, the KV caches of running sequences, and those kept for later prompts.",
        );
        for model in &engine.models {
            let LoadedModel { weight_bytes, kv_bytes, prompt_cache_bytes, .. } = *model;
            for (kind, bytes) in [
                ("weights", weight_bytes),
                ("kv", kv_bytes.saturating_sub(prompt_cache_bytes)),
                ("prompt_cache", prompt_cache_bytes),
            ] {
                let labels = [("model", &*model.name), ("engine", &*model.engine), ("kind", kind)];
                kinds.whole(labels, bytes);
            }
        }
    }
}

fn describe_engine(families: &mut Families, engine: &EngineStatus) {
    let age = Instant::now().saturating_duration_since(engine.beat_at);
    families
        .gauge("ingle_engine_heartbeat_age_seconds", "Time since the engine thread's last sign.")
        .seconds([], age);
    let mut phases = families
        .gauge("ingle_engine_phase", "1 for what the engine thread does, by its last sign.");
    let now = engine.phase.name();
    for phase in Phase::NAMES {
        phases.whole([("phase", phase)], u64::from(phase == now));
    }
    families.gauge("ingle_generations_running", "Texts being generated.").size([], engine.active);
    let mut queued =
        families.gauge("ingle_queue_depth", "What waits for the engine thread, by queue.");
    for (queue, size) in [
        ("generations", engine.queued),
        ("embeddings", engine.embeddings),
        ("loads", engine.waiting_loads),
    ] {
        queued.size([("queue", queue)], size);
    }
    families
        .counter(
            "ingle_generations_accepted_total",
            "Requests that the engine took into a queue; several texts for one prompt are one.",
        )
        .count([], engine.accepted);
}

fn describe_models(families: &mut Families, engine: &EngineStatus) {
    let mut loaded = families.gauge("ingle_model_loaded", "1 for each model in memory.");
    for model in &engine.models {
        loaded.whole([("model", &*model.name), ("engine", &*model.engine)], 1);
    }
    families
        .gauge("ingle_models_loading", "Models on their way into memory.")
        .size([], engine.loading.len());
    families
        .gauge(
            "ingle_models_quarantined",
            "Models that are refused because they ended the daemon twice in a row.",
        )
        .size([], engine.quarantined.len());
}

/// A histogram of each model.
type OfModel = fn(&ModelCounters) -> &Histogram;

fn describe_work(families: &mut Families, counters: &EngineCounters) {
    let mut loads = families.counter("ingle_model_loads_total", "Loads that have ended.");
    for (outcome, count) in counters.loads() {
        loads.count([("outcome", outcome.as_str())], count);
    }
    families
        .histogram("ingle_model_load_duration_seconds", "How long loads took that went well.")
        .buckets(&[], &counters.load_time.read());
    let mut unloads = families.counter("ingle_model_unloads_total", "Models that went, and why.");
    for (reason, count) in counters.unloads() {
        unloads.count([("reason", reason.as_str())], count);
    }
    families
        .counter(
            "ingle_prompt_cache_evictions_total",
            "Kept sequences that were given up to stay within the memory budget.",
        )
        .count([], counters.kept_dropped.get());
    let mut busy = families.counter(
        "ingle_engine_busy_seconds_total",
        "Time the engine thread has computed for; a pass that reads prompts is prefill, whatever else it does.",
    );
    for (activity, time) in counters.busy_times() {
        busy.seconds([("activity", activity.as_str())], time);
    }
    families
        .histogram(
            "ingle_queue_wait_seconds",
            "From a generation's acceptance to its slot, its model's load left out.",
        )
        .buckets(&[], &counters.queue_wait.read());
    let models = counters.models();
    let mut prompts = families.counter(
        "ingle_prompt_tokens_total",
        "Prompt tokens: read by the model, or found in the prompt cache.",
    );
    for model in &models {
        let (read, cached) = (model.read_tokens.get(), model.cached_tokens.get());
        for (source, count) in [("read", read), ("cached", cached)] {
            let engine = model.engine.as_str();
            let labels = [("model", &*model.model), ("engine", engine), ("source", source)];
            prompts.count(labels, count);
        }
    }
    let mut generated = families.counter("ingle_generated_tokens_total", "Tokens generated.");
    for model in &models {
        let labels = [("model", &*model.model), ("engine", model.engine.as_str())];
        generated.count(labels, model.generated_tokens.get());
    }
    let histograms: [(&str, &str, OfModel); 3] = [
        (
            "ingle_time_to_first_token_seconds",
            "From a request's acceptance to its first token: queue, load and prefill.",
            |model| &model.ttft,
        ),
        ("ingle_prefill_duration_seconds", "From a request's slot to its first token.", |model| {
            &model.prefill
        }),
        (
            "ingle_inter_token_seconds",
            "Between two tokens of one text, where they are made.",
            |model| &model.inter_token,
        ),
    ];
    for (name, help, histogram) in histograms {
        let mut family = families.histogram(name, help);
        for model in &models {
            let labels = [("model", &*model.model), ("engine", model.engine.as_str())];
            family.buckets(&labels, &histogram(model).read());
        }
    }
}
