//! Starts a generation: from a request's parameters to the engine.
//!
//! Owns validation, defaults, the compilation of a constraint and the commands to the engine. A
//! request for several choices is as many generations to the engine, each with a slot of its own, so
//! that each waits in the one queue; [`Generation`] makes one request of them again.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::limits;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::generate::{GenerateParams, OutputFormat};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use crate::blocking::blocking;
use crate::embed::check_role;
use crate::generation::{Generation, PendingChoice};
use crate::model_cache::OpenModel;
use crate::prompt::{Prompt, PromptInput, ResponseConstraint};
use crate::request::RequestContext;
use crate::response::ResponseBuilder;
use crate::service::Service;
use crate::validate::{logit_bias, validate};
use ingle_engine::role::Role;
use ingle_engine::sampling;
use ingle_scheduler::command::{Command, GenerateRequest, RequestChoice};
use ingle_scheduler::error::EngineFailure;
use ingle_text::constraint::Constraint;
use ingle_text::output::TextOutput;
use ingle_text::response_parser::ResponseParser;

impl Service {
    /// Starts a generation.
    ///
    /// # Errors
    /// `INVALID_PARAMS` naming the parameter, the error of opening the model, `CONTEXT_TOO_LONG`,
    /// or `OVERLOADED`.
    pub async fn generate(
        &self,
        mut params: GenerateParams,
        context: RequestContext,
    ) -> Result<Generation, ErrorBody> {
        if self.draining.is_cancelled() {
            return Err(EngineFailure::ShuttingDown.into());
        }
        let (settings, penalties) = validate(&params)?;
        let choice_count = params.choices();
        let input = PromptInput::take(&mut params);
        let prepared = async {
            let open = self.open(params.model.as_deref(), params.engine).await?;
            check_role(&open, Role::Generates)?;
            input.prepare(open).await
        };
        let (open, prompt) = self.engine_step("preparing the prompt", &context, prepared).await?;
        let Prompt { tokens: prompt, end_tokens, tags, parser, is_parallel, stops, constraint } =
            prompt;
        check_context(&prompt, &open)?;
        let logit_bias = logit_bias(&params.logit_bias, open.text.tokenizer.vocab_size())?;
        let seed = params.seed.unwrap_or_else(|| random_seed(&context));
        let constrained_by = constraint.parameter();
        let mut constraint = self.compile(&open, constraint, &context).await?;
        let max_tokens = params.max_tokens.unwrap_or(limits::DEFAULT_MAX_TOKENS);
        let (events_tx, events) = mpsc::channel(limits::ENGINE_EVENTS);
        // From here on, an early return ends the choices that the engine has already.
        let cancel_on_drop = context.cancel.clone().drop_guard();
        // The choices share a token: one that fails ends the others through it.
        let cancel = context.cancel.child_token();
        let work_since: Arc<OnceLock<Instant>> = Arc::default();
        let mut choices = Vec::with_capacity(choice_count);
        for index in 0..choice_count {
            let seed = sampling::choice_seed(seed, index);
            let (done_tx, done) = oneshot::channel();
            let mut output = TextOutput::new(Arc::clone(&open.text.tokenizer), stops.clone())?;
            // Without stop strings the engine thread need not parse the text.
            if let Some(parser) = parser.clone().filter(ResponseParser::has_stops) {
                output = output.with_parser(parser);
            }
            let response = ResponseBuilder::new(index, parser.clone(), is_parallel);
            let request = GenerateRequest {
                request_id: context.id.clone(),
                span: tracing::Span::current(),
                model: open.engine.clone(),
                output: output.showing(tags.clone()),
                constraint: match index + 1 {
                    last if last == choice_count => constraint.take(),
                    _ => constraint.as_ref().map(Constraint::fork),
                },
                end_tokens: if params.ignore_eos { Vec::new() } else { end_tokens.clone() },
                prompt: prompt.clone(),
                max_tokens: usize::try_from(max_tokens).unwrap_or(usize::MAX),
                settings,
                penalties,
                logit_bias: Arc::clone(&logit_bias),
                seed,
                logprobs: (params.logprobs || params.top_logprobs > 0)
                    .then_some(params.top_logprobs),
                stream_text: params.stream,
                deadline: context.deadline,
                choice: RequestChoice { index, work_since: Arc::clone(&work_since) },
                finish_at_sentence: Arc::clone(&context.finish_at_sentence),
                cancel: cancel.clone(),
                events: events_tx.clone(),
                done: done_tx,
            };
            self.engine.send(Command::Generate(Box::new(request)))?;
            choices.push(PendingChoice { seed, response, done });
        }
        Ok(Generation {
            model: open.engine.name.clone(),
            stream_text: params.stream,
            constrained_by,
            events,
            choices,
            ready: VecDeque::new(),
            alarm: self.engine.alarm().clone(),
            work_since,
            timeout_counters: Arc::clone(&self.timeout_counters),
            _cancel_on_drop: cancel_on_drop,
            context,
        })
    }

    /// Compiles the grammar that constrains the output, if any, off the engine thread.
    ///
    /// # Errors
    /// `INVALID_PARAMS` naming `format` or `tools`, `OVERLOADED`, and `TIMEOUT`.
    async fn compile(
        &self,
        open: &Arc<OpenModel>,
        constraint: ResponseConstraint,
        context: &RequestContext,
    ) -> Result<Option<Constraint>, ErrorBody> {
        if matches!(constraint, ResponseConstraint::Format(OutputFormat::Text)) {
            return Ok(None);
        }
        let (open, cores) = (Arc::clone(open), self.engine.cores());
        let work = async {
            let permit = self.grammar_slots.permit().await?;
            blocking(move || {
                // Held until the work ends, which a request that goes does not end.
                let _permit = permit;
                let grammars = open.grammars(&cores)?;
                let _core = cores.reserve();
                Ok(match constraint {
                    ResponseConstraint::Format(format) => grammars.constraint(&format)?,
                    ResponseConstraint::Calls(calls) => Some(grammars.calls(&calls)?),
                })
            })
            .await
        };
        self.engine_step("preparing the format", context, work).await
    }
}

fn check_context(prompt: &[u32], open: &OpenModel) -> Result<(), ErrorBody> {
    let (prompt_tokens, context_tokens) = (prompt.len(), open.context_tokens);
    if prompt_tokens == 0 {
        return Err(ErrorBody::invalid("prompt", "has no tokens"));
    }
    if prompt_tokens < context_tokens {
        return Ok(());
    }
    Err(ErrorBody::new(
        ErrorCode::ContextTooLong,
        format!(
            "the prompt has {prompt_tokens} tokens and the model's context holds {context_tokens}, \
             one of them for the answer"
        ),
    )
    .with_details(json!({ "prompt_tokens": prompt_tokens, "context_tokens": context_tokens })))
}

/// A seed for a request without one: different for every request, and part of the result.
fn random_seed(context: &RequestContext) -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut hasher = RandomState::new().build_hasher();
    hasher.write(context.id.as_bytes());
    // JSON readers keep integers up to 2^53 exactly.
    hasher.finish() >> 11
}
