//! Sampling parameters: names, ranges and descriptions.
//!
//! Owns the one table that the sampler's checks and the schemas of HTTP and MCP read. Does not know
//! how a token is sampled.

use std::ops::RangeInclusive;

/// A numeric sampling parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingParameter {
    /// Name of the parameter on every edge.
    pub name: &'static str,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// The range in words, for errors.
    pub expected: &'static str,
    /// Description, for schemas.
    pub description: &'static str,
}

impl SamplingParameter {
    /// The range of values.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the bounds are short decimals")]
    pub const fn range(&self) -> RangeInclusive<f32> {
        RangeInclusive::new(self.min as f32, self.max as f32)
    }
}

/// Sampling temperature. Beyond the maximum every distribution is flat.
pub const TEMPERATURE: SamplingParameter = SamplingParameter {
    name: "temperature",
    min: 0.0,
    max: 100.0,
    expected: "a number from 0 to 100",
    description: "Sampling temperature; 0 is greedy.",
};

/// Nucleus sampling.
pub const TOP_P: SamplingParameter = SamplingParameter {
    name: "top_p",
    min: 0.0,
    max: 1.0,
    expected: "a number from 0 to 1",
    description: "Nucleus sampling: the smallest set of tokens with this total probability; 1 (the \
                  default) keeps all.",
};

/// Minimum share of the likeliest token's probability.
pub const MIN_P: SamplingParameter = SamplingParameter {
    name: "min_p",
    min: 0.0,
    max: 1.0,
    expected: "a number from 0 to 1",
    description: "Drops tokens less likely than this share of the likeliest one; 0 (the default) \
                  drops none.",
};

/// Repetition penalty. At its bounds a penalised token is as good as forbidden, or forced.
pub const REPETITION_PENALTY: SamplingParameter = SamplingParameter {
    name: "repetition_penalty",
    min: 0.01,
    max: 100.0,
    expected: "a number from 0.01 to 100; 1 does nothing",
    description: "Repetition penalty: a value above 1 makes the last 64 tokens of prompt and output \
                  less likely; 1 (the default) is off. Try 1.1 against repetitive text.",
};

/// Frequency penalty, in OpenAI's range.
pub const FREQUENCY_PENALTY: SamplingParameter = SamplingParameter {
    name: "frequency_penalty",
    min: -2.0,
    max: 2.0,
    expected: "a number from -2 to 2",
    description: "Frequency penalty: subtracted from a token's logit for each time it has been \
                  generated; 0 (the default) is off.",
};

/// Presence penalty, in OpenAI's range.
pub const PRESENCE_PENALTY: SamplingParameter = SamplingParameter {
    name: "presence_penalty",
    min: -2.0,
    max: 2.0,
    expected: "a number from -2 to 2",
    description: "Presence penalty: subtracted from a token's logit if it has been generated at \
                  all; 0 (the default) is off.",
};

/// Description of the parameter `seed`.
pub const SEED: &str = "Random seed, for reproducible output.";

/// Description of the parameter `top_k`.
pub const TOP_K: &str =
    "Samples from the `top_k` likeliest tokens only; 0 (the default) keeps all.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_match_their_words() {
        for parameter in
            [TEMPERATURE, TOP_P, MIN_P, REPETITION_PENALTY, FREQUENCY_PENALTY, PRESENCE_PENALTY]
        {
            let words = format!("a number from {} to {}", parameter.min, parameter.max);
            assert!(parameter.expected.starts_with(&words), "{}", parameter.name);
            assert!(!parameter.range().contains(&f32::NAN), "{}", parameter.name);
        }
    }
}
