//! Logit bias and penalties: what one text's past does to the logits of its next token.
//!
//! Owns their definitions and the counts behind them; a sequence tells it each token. Knows nothing
//! of requests and engines. In vLLM's order, which is llama.cpp's too:
//!
//! 1. **Logit bias** is added to its tokens' logits (OpenAI's `logit_bias`).
//! 2. **Repetition penalty** (Keskar et al., 2019, as Transformers' `RepetitionPenaltyLogitsProcessor`
//!    has it): a positive logit is divided by it and any other multiplied, for each token that
//!    occurs among the last `repetition_window` tokens of prompt and text together. Once, however
//!    often it occurs. The window is llama.cpp's `penalty_last_n`, and its default is llama.cpp's.
//! 3. **Frequency and presence penalty**, OpenAI's formula: `logit -= count * frequency + presence`
//!    for each token that has been generated `count` times. The prompt does not count, and there
//!    is no window, as in vLLM. (llama.cpp counts within its window, prompt included.)

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ingle_protocol::sampling::{FREQUENCY_PENALTY, PRESENCE_PENALTY, REPETITION_PENALTY};

use super::{InvalidSetting, check};

/// Tokens that the repetition penalty looks back on when a request names no window.
pub const DEFAULT_REPETITION_WINDOW: usize = 64;
/// Largest bias, up and down: OpenAI's range.
pub const MAX_BIAS: f32 = 100.0;

/// How a text's past is held against its tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PenaltySettings {
    /// Above 1 repetition is made less likely, below 1 likelier; 1 does nothing.
    pub repetition: f32,
    /// How many of the last tokens of prompt and text the repetition penalty looks at, at least 1.
    pub repetition_window: usize,
    /// Taken off a token's logit once for each time it has been generated.
    pub frequency: f32,
    /// Taken off a token's logit if it has been generated at all.
    pub presence: f32,
}

impl PenaltySettings {
    /// No penalty.
    pub const NONE: Self = Self {
        repetition: 1.0,
        repetition_window: DEFAULT_REPETITION_WINDOW,
        frequency: 0.0,
        presence: 0.0,
    };

    /// Checks every field's range.
    ///
    /// # Errors
    /// [`InvalidSetting`] naming the first parameter at fault and the values it takes.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        check(&REPETITION_PENALTY, self.repetition)?;
        check(&FREQUENCY_PENALTY, self.frequency)?;
        check(&PRESENCE_PENALTY, self.presence)
    }
}

/// Bias, penalties and counts of one text.
#[derive(Debug, Clone, PartialEq)]
pub struct Penalties {
    settings: PenaltySettings,
    bias: Arc<[(u32, f32)]>,
    /// The last tokens of prompt and text, oldest first, and how often each occurs among them.
    /// Empty when there is no repetition penalty.
    window: VecDeque<u32>,
    recent: HashMap<u32, u32>,
    /// How often each token has been generated. Empty when neither penalty on it is set.
    generated: HashMap<u32, u32>,
}

impl Penalties {
    /// The state of a text that begins with `prompt`; `None` when nothing is to be done to any
    /// logit. `bias` has each token once.
    #[must_use]
    pub fn new(settings: PenaltySettings, bias: Arc<[(u32, f32)]>, prompt: &[u32]) -> Option<Self> {
        let mut penalties = Self {
            settings,
            bias,
            window: VecDeque::new(),
            recent: HashMap::new(),
            generated: HashMap::new(),
        };
        if penalties.bias.is_empty() && !penalties.repeats() && !penalties.counts() {
            return None;
        }
        let first = prompt.len().saturating_sub(settings.repetition_window);
        for &token in &prompt[first..] {
            penalties.look_back_on(token);
        }
        Some(penalties)
    }

    /// Takes note of a generated token.
    pub fn push(&mut self, token: u32) {
        self.look_back_on(token);
        if self.counts() {
            *self.generated.entry(token).or_default() += 1;
        }
    }

    /// Changes the logits of one row. Infinite ones stay as they are, finite ones stay finite.
    pub fn apply(&self, logits: &mut [f32]) {
        let mut change = |token: u32, new: &dyn Fn(f32) -> f32| {
            // The vocabulary may have more entries than the output head has rows.
            if let Some(logit) = logits.get_mut(token as usize).filter(|logit| logit.is_finite()) {
                *logit = new(*logit).clamp(f32::MIN, f32::MAX);
            }
        };
        for &(token, bias) in self.bias.iter() {
            change(token, &|logit| logit + bias);
        }
        let PenaltySettings { repetition, frequency, presence, .. } = self.settings;
        for &token in self.recent.keys() {
            change(token, &|logit| {
                if logit > 0.0 { logit / repetition } else { logit * repetition }
            });
        }
        for (&token, &count) in &self.generated {
            change(token, &|logit| logit - (count as f32 * frequency + presence));
        }
    }

    fn look_back_on(&mut self, token: u32) {
        if !self.repeats() {
            return;
        }
        self.window.push_back(token);
        *self.recent.entry(token).or_default() += 1;
        if self.window.len() > self.settings.repetition_window
            && let Some(gone) = self.window.pop_front()
            && let Some(count) = self.recent.get_mut(&gone)
        {
            *count -= 1;
            if *count == 0 {
                self.recent.remove(&gone);
            }
        }
    }

    fn repeats(&self) -> bool {
        self.settings.repetition != 1.0
    }

    fn counts(&self) -> bool {
        self.settings.frequency != 0.0 || self.settings.presence != 0.0
    }
}

#[cfg(test)]
mod tests;
