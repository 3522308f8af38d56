//! Logit bias and repetition penalties.
//!
//! Owns their definitions and token counts; the sequence reports each token. Does not know requests
//! and engines. In vLLM's order, which is llama.cpp's too:
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

use super::invalid_setting::{InvalidSetting, check};

/// Default window of the repetition penalty, in tokens.
pub const DEFAULT_REPETITION_WINDOW: usize = 64;
/// Largest bias, up and down: OpenAI's range.
pub const MAX_BIAS: f32 = 100.0;

/// Repetition, frequency and presence penalties.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PenaltySettings {
    /// Above 1, repetition becomes less likely; below 1, more likely; 1 has no effect.
    pub repetition: f32,
    /// Number of last tokens of prompt and completion that it covers, at least 1.
    pub repetition_window: usize,
    /// Subtracted from a token's logit for each time it was generated.
    pub frequency: f32,
    /// Subtracted from a token's logit if it was generated at all.
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
    /// [`InvalidSetting`] naming the first invalid parameter and its valid values.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        check(&REPETITION_PENALTY, self.repetition)?;
        check(&FREQUENCY_PENALTY, self.frequency)?;
        check(&PRESENCE_PENALTY, self.presence)
    }
}

/// Bias, penalties and token counts of one sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Penalties {
    settings: PenaltySettings,
    bias: Arc<[(u32, f32)]>,
    /// The last tokens of prompt and completion, oldest first.
    ///
    /// Empty when there is no repetition penalty, as is `recent`, their counts.
    window: VecDeque<u32>,
    recent: HashMap<u32, u32>,
    /// Number of times each token was generated; empty without frequency and presence penalty.
    generated: HashMap<u32, u32>,
}

impl Penalties {
    /// The state after `prompt`; `None` when no logit would change.
    ///
    /// `bias` has each token once.
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

    /// Counts a generated token.
    pub fn push(&mut self, token: u32) {
        self.look_back_on(token);
        if self.counts() {
            *self.generated.entry(token).or_default() += 1;
        }
    }

    /// Applies bias and penalties to one row. Infinite logits do not change; finite stay finite.
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
