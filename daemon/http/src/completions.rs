//! Completions: `POST /v1/completions`.
//!
//! Owns the mapping between OpenAI's completions and `generate` with a raw prompt. Each prompt of a
//! request is a generation.

use std::sync::Arc;

use crate::limits;
use axum::extract::{Extension, State};
use axum::response::Response;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::generate::{GenerateEvent, GenerateParams, GenerateResult};
use ingle_protocol::wire::tokens::DetokenizeParams;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::api::{Api, fingerprint, unix_s};
use super::body::{Json, json_response};
use super::logprobs;
use super::middleware::{RequestId, SharedTimer};
use super::problem::Problem;
use super::sse::{self, ChunkFormat, EventBuffer};
use super::types::completions::{Completion, CompletionChoice, CompletionRequest};
use super::types::input::Input;
use super::types::shared::Usage;
use ingle_service::request::RequestContext;

/// Maximum number of tokens without `max_tokens`: OpenAI's default.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// Continues prompts.
///
/// # Errors
/// A parameter that cannot be used, and what the service reports.
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(id): Extension<RequestId>,
    Extension(timer): Extension<SharedTimer>,
    Json(mut request): Json<CompletionRequest>,
) -> Result<Response, Problem> {
    check(&request)?;
    let include_usage = request.stream_options.and_then(|options| options.include_usage);
    let context = api.context(&id.0, Class::Completions, CancellationToken::new());
    let prompt = std::mem::replace(&mut request.prompt, Input::Texts(Vec::new()));
    let prompts = prompts(prompt, request.n.unwrap_or(1))?;
    let (mut all, mut echoes) = (Vec::with_capacity(prompts.len()), Vec::new());
    for prompt in prompts {
        let (params, echo) = api.prompt_params(&request, prompt, &context).await?;
        all.push(params);
        echoes.extend(echo);
    }
    let per_prompt = all.first().map_or(1, GenerateParams::choices);
    let id = format!("cmpl-{}", id.0);
    if request.stream.unwrap_or_default() {
        let chunks = CompletionChunks {
            per_prompt,
            offsets: vec![0; per_prompt * all.len()],
            echoes,
            include_usage: include_usage.unwrap_or_default(),
            id,
            created: unix_s(),
            model: String::new(),
            fingerprint: fingerprint(),
            usages: Vec::new(),
        };
        return sse::respond(api, context, &timer, all, chunks).await;
    }
    let generations = api.start(&context, all).await?;
    let model = generations.model.clone();
    let results = generations.results().await?;
    let usage = Usage::sum(results.iter().map(|result| result.usage));
    let mut completions = Vec::new();
    for (prompt, result) in results.into_iter().enumerate() {
        for choice in result.choices {
            let logprobs = request.logprobs;
            let logprobs = logprobs.map(|_| logprobs::completion(&choice.logprobs, &mut 0));
            let echo = echoes.get(prompt).map(String::as_str).unwrap_or_default();
            completions.push(CompletionChoice {
                index: completions.len(),
                text: format!("{echo}{}", choice.text),
                logprobs,
                finish_reason: Some(choice.finish_reason.into()),
            });
        }
    }
    Ok(json_response(&Completion {
        id: &id,
        object: "text_completion",
        created: unix_s(),
        model: &model,
        choices: completions,
        usage: Some(Some(usage)),
        system_fingerprint: &fingerprint(),
    })?)
}

fn check(request: &CompletionRequest) -> Result<(), ErrorBody> {
    let n = request.n.unwrap_or(1);
    // This comes first: memory is allocated for each completion.
    if !usize::try_from(n).is_ok_and(|n| (1..=limits::CHOICES).contains(&n)) {
        return Err(ErrorBody::invalid("n", format!("must be from 1 to {}", limits::CHOICES)));
    }
    if request.logprobs.is_some_and(|logprobs| logprobs > limits::TOP_LOGPROBS) {
        return Err(ErrorBody::invalid(
            "logprobs",
            format!("must be at most {}", limits::TOP_LOGPROBS),
        ));
    }
    if request.best_of.is_some_and(|best_of| best_of != n) {
        return Err(ErrorBody::invalid("best_of", "must equal `n`: every completion is returned"));
    }
    if request.echo.unwrap_or_default() && request.logprobs.is_some() {
        return Err(ErrorBody::invalid("logprobs", "cannot be combined with `echo`"));
    }
    Ok(())
}

/// One prompt of a request.
enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

/// The prompts of a request that wants `n` completions for each, within the limit.
fn prompts(input: Input, n: u32) -> Result<Vec<Prompt>, ErrorBody> {
    let count = match &input {
        Input::Text(_) | Input::Tokens(_) => 1,
        Input::Texts(texts) => texts.len(),
        Input::TokenLists(lists) => lists.len(),
    };
    let completions = usize::try_from(n).unwrap_or(usize::MAX).saturating_mul(count);
    if !(1..=limits::HTTP_COMPLETIONS).contains(&completions) {
        let problem = format!(
            "has {count} entries with {n} completions each; the total must be from 1 to {}",
            limits::HTTP_COMPLETIONS
        );
        return Err(ErrorBody::invalid("prompt", problem));
    }
    Ok(match input {
        Input::Text(text) => vec![Prompt::Text(text)],
        Input::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
        Input::Tokens(tokens) => vec![Prompt::Tokens(tokens)],
        Input::TokenLists(lists) => lists.into_iter().map(Prompt::Tokens).collect(),
    })
}

impl Api {
    /// The service's parameters for one prompt, and the text to echo before its completions.
    async fn prompt_params(
        &self,
        request: &CompletionRequest,
        prompt: Prompt,
        context: &RequestContext,
    ) -> Result<(GenerateParams, Option<String>), ErrorBody> {
        let mut params = params(request);
        let is_echoed = request.echo.unwrap_or_default();
        let text = match prompt {
            Prompt::Text(text) => {
                params.prompt = Some(text.clone());
                Some(text)
            }
            // Fill-in-the-middle takes text only.
            Prompt::Tokens(tokens) if params.suffix.is_some() => {
                let text = self.text(params.model.clone(), tokens, context).await?;
                params.prompt = Some(text.clone());
                Some(text)
            }
            // The model gets the tokens unchanged: their text can have another tokenization.
            Prompt::Tokens(tokens) => {
                params.prompt_tokens = Some(tokens.clone());
                match is_echoed {
                    true => Some(self.text(params.model.clone(), tokens, context).await?),
                    false => None,
                }
            }
        };
        Ok((params, text.filter(|_| is_echoed)))
    }

    /// The text of a prompt's tokens.
    async fn text(
        &self,
        model: Option<String>,
        tokens: Vec<u32>,
        context: &RequestContext,
    ) -> Result<String, ErrorBody> {
        let params = DetokenizeParams { model, engine: None, tokens };
        match self.service.detokenize(params, context).await {
            Ok(result) => Ok(result.text),
            Err(error) if error.code == ErrorCode::InvalidParams && error.details.is_null() => {
                Err(error.with_details(json!({ "field": "prompt" })))
            }
            Err(error) => Err(error),
        }
    }
}

/// The service's parameters without the prompt, with OpenAI's defaults.
fn params(request: &CompletionRequest) -> GenerateParams {
    GenerateParams {
        model: request.model.clone().filter(|model| !model.is_empty()),
        suffix: request.suffix.clone().filter(|suffix| !suffix.is_empty()),
        max_tokens: Some(request.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS)),
        n: request.n,
        stop: request.stop.clone().map(Vec::from).unwrap_or_default(),
        logprobs: request.logprobs.is_some(),
        top_logprobs: request.logprobs.unwrap_or_default(),
        stream: request.stream.unwrap_or_default(),
        ..request.sampling()
    }
}

/// The chunks of one streamed response.
struct CompletionChunks {
    /// Completions of each prompt.
    per_prompt: usize,
    /// Where the next token of each completion begins, in characters.
    offsets: Vec<usize>,
    /// The prompts, if each completion begins with its prompt.
    echoes: Vec<String>,
    include_usage: bool,
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    usages: Vec<ingle_protocol::wire::generate::Usage>,
}

impl CompletionChunks {
    fn chunk(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>, out: &mut EventBuffer) {
        out.data(&Completion {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.model,
            choices,
            usage: self.include_usage.then_some(usage),
            system_fingerprint: &self.fingerprint,
        });
    }
}

impl ChunkFormat for CompletionChunks {
    fn open(&mut self, model: &str, out: &mut EventBuffer) {
        model.clone_into(&mut self.model);
        for (prompt, echo) in self.echoes.iter().enumerate() {
            for index in prompt * self.per_prompt..(prompt + 1) * self.per_prompt {
                let choice =
                    CompletionChoice { index, text: echo.clone(), ..CompletionChoice::default() };
                self.chunk(vec![choice], None, out);
            }
        }
        if self.echoes.is_empty() {
            // With this chunk, the first byte does not wait for the first token.
            self.chunk(vec![CompletionChoice::default()], None, out);
        }
    }

    fn event(&mut self, prompt: usize, event: GenerateEvent, out: &mut EventBuffer) {
        let GenerateEvent::Delta { choice, text, logprobs } = event else { return };
        let index = prompt * self.per_prompt + choice;
        let logprobs = match self.offsets.get_mut(index) {
            Some(offset) if !logprobs.is_empty() => Some(logprobs::completion(&logprobs, offset)),
            _ => None,
        };
        let choice = CompletionChoice { index, text, logprobs, finish_reason: None };
        self.chunk(vec![choice], None, out);
    }

    fn finish(&mut self, prompt: usize, result: &GenerateResult, out: &mut EventBuffer) {
        for (choice, ended) in result.choices.iter().enumerate() {
            let index = prompt * self.per_prompt + choice;
            let finish_reason = Some(ended.finish_reason.into());
            let choice = CompletionChoice { index, finish_reason, ..CompletionChoice::default() };
            self.chunk(vec![choice], None, out);
        }
        self.usages.push(result.usage);
    }

    fn close(&mut self, out: &mut EventBuffer) {
        if self.include_usage {
            let usage = Usage::sum(self.usages.iter().copied());
            self.chunk(Vec::new(), Some(usage), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excessive_counts_are_refused_first() {
        for (field, value) in [("n", json!(u32::MAX)), ("n", json!(0)), ("logprobs", json!(21))] {
            let request = json!({ "prompt": "x", "stream": true, field: value });
            let error = check(&serde_json::from_value(request).unwrap()).unwrap_err();
            assert_eq!(error.details["field"], field, "{}", error.message);
        }
        let lists = |count: usize, n: u32| prompts(Input::TokenLists(vec![vec![1]; count]), n);
        for (count, n) in [(limits::HTTP_COMPLETIONS, 1), (limits::HTTP_COMPLETIONS / 8, 8)] {
            assert_eq!(lists(count, n).ok().map(|all| all.len()), Some(count));
            let error = lists(count + 1, n).err().unwrap();
            assert_eq!(error.details["field"], "prompt");
        }
        assert!(lists(0, 1).is_err());
    }
}
