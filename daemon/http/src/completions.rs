//! `POST /v1/completions`.
//!
//! Owns the mapping between OpenAI's completions and `generate` with a raw prompt, several of which
//! are as many generations.

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

use super::body::Json;
use super::gate::Asked;
use super::problem::Problem;
use super::run::answer;
use super::sse::{self, Frames, Script};
use super::types::completions::{Completion, CompletionChoice, CompletionRequest};
use super::types::input::Input;
use super::types::shared::Usage;
use super::{Edge, fingerprint, logprobs, unix_s};
use ingle_service::request::RequestContext;

/// Tokens generated when a request names no maximum: OpenAI's default.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// Continues prompts.
///
/// # Errors
/// What is wrong with the request, and what the service reports.
pub async fn create(
    State(edge): State<Arc<Edge>>,
    Extension(asked): Extension<Asked>,
    Json(mut request): Json<CompletionRequest>,
) -> Result<Response, Problem> {
    check(&request)?;
    let include_usage = request.stream_options.and_then(|options| options.include_usage);
    let context = edge.context(&asked.id, Class::Completions, CancellationToken::new());
    let prompt = std::mem::replace(&mut request.prompt, Input::Texts(Vec::new()));
    let prompts = prompts(prompt, request.n.unwrap_or(1))?;
    let (mut all, mut echoes) = (Vec::with_capacity(prompts.len()), Vec::new());
    for prompt in prompts {
        let (params, echo) = edge.one(&request, prompt, &context).await?;
        all.push(params);
        echoes.extend(echo);
    }
    let per_prompt = all.first().map_or(1, GenerateParams::choices);
    let name = format!("cmpl-{}", asked.id);
    if request.stream.unwrap_or_default() {
        let script = CompletionScript {
            per_prompt,
            offsets: vec![0; per_prompt * all.len()],
            echoes,
            include_usage: include_usage.unwrap_or_default(),
            id: name,
            created: unix_s(),
            model: String::new(),
            fingerprint: fingerprint(),
            counted: Vec::new(),
        };
        return sse::respond(edge, context, asked, all, script).await;
    }
    let started = edge.start(&context, all).await?;
    let model = started.model.clone();
    let results = started.results().await?;
    let usage = Usage::sum(results.iter().map(|result| result.usage));
    let mut texts = Vec::new();
    for (prompt, result) in results.into_iter().enumerate() {
        for choice in result.choices {
            let logprobs = request.logprobs;
            let logprobs = logprobs.map(|_| logprobs::completion(&choice.logprobs, &mut 0));
            let echo = echoes.get(prompt).map(String::as_str).unwrap_or_default();
            texts.push(CompletionChoice {
                index: texts.len(),
                text: format!("{echo}{}", choice.text),
                logprobs,
                finish_reason: Some(choice.finish_reason.into()),
            });
        }
    }
    Ok(answer(&Completion {
        id: &name,
        object: "text_completion",
        created: unix_s(),
        model: &model,
        choices: texts,
        usage: Some(Some(usage)),
        system_fingerprint: &fingerprint(),
    })?)
}

fn check(request: &CompletionRequest) -> Result<(), ErrorBody> {
    let n = request.n.unwrap_or(1);
    // First of all: room is made for each of the texts.
    if !usize::try_from(n).is_ok_and(|n| (1..=limits::CHOICES).contains(&n)) {
        return Err(ErrorBody::invalid("n", &format!("must be from 1 to {}", limits::CHOICES)));
    }
    if request.logprobs.is_some_and(|logprobs| logprobs > limits::TOP_LOGPROBS) {
        return Err(ErrorBody::invalid(
            "logprobs",
            &format!("must be at most {}", limits::TOP_LOGPROBS),
        ));
    }
    if request.best_of.is_some_and(|best_of| best_of != n) {
        return Err(ErrorBody::invalid(
            "best_of",
            "must be `n`: nothing is generated that is not given",
        ));
    }
    if request.echo.unwrap_or_default() && request.logprobs.is_some() {
        return Err(ErrorBody::invalid("logprobs", "cannot be given for an echoed prompt"));
    }
    Ok(())
}

/// One prompt, as it was given.
enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

/// The prompts one by one, once the number of texts is known to be fine; `n` are asked of each.
fn prompts(input: Input, n: u32) -> Result<Vec<Prompt>, ErrorBody> {
    let count = match &input {
        Input::Text(_) | Input::Tokens(_) => 1,
        Input::Texts(texts) => texts.len(),
        Input::TokenLists(lists) => lists.len(),
    };
    let texts = usize::try_from(n).unwrap_or(usize::MAX).saturating_mul(count);
    if !(1..=limits::HTTP_TEXTS).contains(&texts) {
        let problem = format!(
            "has {count} entries, of each of which {n} texts are asked; together they must be 1 to {}",
            limits::HTTP_TEXTS
        );
        return Err(ErrorBody::invalid("prompt", &problem));
    }
    Ok(match input {
        Input::Text(text) => vec![Prompt::Text(text)],
        Input::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
        Input::Tokens(tokens) => vec![Prompt::Tokens(tokens)],
        Input::TokenLists(lists) => lists.into_iter().map(Prompt::Tokens).collect(),
    })
}

impl Edge {
    /// What the service is asked for one of the prompts, and what stands before its texts.
    async fn one(
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
            // A gap is between texts.
            Prompt::Tokens(tokens) if params.suffix.is_some() => {
                let text = self.text(params.model.clone(), tokens, context).await?;
                params.prompt = Some(text.clone());
                Some(text)
            }
            // The model gets the tokens as they are: their text may be that of others.
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

/// What the service is asked for but for the prompt, with OpenAI's defaults.
fn params(request: &CompletionRequest) -> GenerateParams {
    GenerateParams {
        model: request.model.clone().filter(|model| !model.is_empty()),
        suffix: request.suffix.clone().filter(|suffix| !suffix.is_empty()),
        max_tokens: Some(request.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS)),
        temperature: Some(request.temperature.unwrap_or(1.0)),
        top_k: request.top_k,
        top_p: request.top_p,
        min_p: request.min_p,
        repetition_penalty: request.repetition_penalty,
        frequency_penalty: request.frequency_penalty,
        presence_penalty: request.presence_penalty,
        logit_bias: request.logit_bias.clone().unwrap_or_default(),
        n: request.n,
        seed: request.seed.map(i64::cast_unsigned),
        stop: request.stop.clone().map(Vec::from).unwrap_or_default(),
        logprobs: request.logprobs.is_some(),
        top_logprobs: request.logprobs.unwrap_or_default(),
        stream: request.stream.unwrap_or_default(),
        ..GenerateParams::default()
    }
}

/// The chunks of one answer.
struct CompletionScript {
    /// Texts for each prompt.
    per_prompt: usize,
    /// Where the next token of each text begins, in characters.
    offsets: Vec<usize>,
    /// The prompts, if they are to stand before their texts.
    echoes: Vec<String>,
    include_usage: bool,
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    counted: Vec<ingle_protocol::wire::generate::Usage>,
}

impl CompletionScript {
    fn chunk(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>, out: &mut Frames) {
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

impl Script for CompletionScript {
    fn open(&mut self, model: &str, out: &mut Frames) {
        model.clone_into(&mut self.model);
        for (prompt, echo) in self.echoes.iter().enumerate() {
            for index in prompt * self.per_prompt..(prompt + 1) * self.per_prompt {
                let choice =
                    CompletionChoice { index, text: echo.clone(), ..CompletionChoice::default() };
                self.chunk(vec![choice], None, out);
            }
        }
        if self.echoes.is_empty() {
            // So that the first byte does not wait for the first token.
            self.chunk(vec![CompletionChoice::default()], None, out);
        }
    }

    fn event(&mut self, prompt: usize, event: GenerateEvent, out: &mut Frames) {
        let GenerateEvent::Delta { choice, text, logprobs } = event else { return };
        let index = prompt * self.per_prompt + choice;
        let logprobs = match self.offsets.get_mut(index) {
            Some(offset) if !logprobs.is_empty() => Some(logprobs::completion(&logprobs, offset)),
            _ => None,
        };
        let choice = CompletionChoice { index, text, logprobs, finish_reason: None };
        self.chunk(vec![choice], None, out);
    }

    fn finish(&mut self, prompt: usize, result: &GenerateResult, out: &mut Frames) {
        for (choice, ended) in result.choices.iter().enumerate() {
            let index = prompt * self.per_prompt + choice;
            let finish_reason = Some(ended.finish_reason.into());
            let choice = CompletionChoice { index, finish_reason, ..CompletionChoice::default() };
            self.chunk(vec![choice], None, out);
        }
        self.counted.push(result.usage);
    }

    fn close(&mut self, out: &mut Frames) {
        if self.include_usage {
            let usage = Usage::sum(self.counted.iter().copied());
            self.chunk(Vec::new(), Some(usage), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_many_is_refused_before_anything_is_made_of_it() {
        for (member, value) in [("n", json!(u32::MAX)), ("n", json!(0)), ("logprobs", json!(21))] {
            let request = json!({ "prompt": "x", "stream": true, member: value });
            let error = check(&serde_json::from_value(request).unwrap()).unwrap_err();
            assert_eq!(error.details["field"], member, "{}", error.message);
        }
        let lists = |count: usize, n: u32| prompts(Input::TokenLists(vec![vec![1]; count]), n);
        for (count, n) in [(limits::HTTP_TEXTS, 1), (limits::HTTP_TEXTS / 8, 8)] {
            assert_eq!(lists(count, n).ok().map(|all| all.len()), Some(count));
            let error = lists(count + 1, n).err().unwrap();
            assert_eq!(error.details["field"], "prompt");
        }
        assert!(lists(0, 1).is_err());
    }
}
