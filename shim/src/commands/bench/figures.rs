//! Figures of a benchmark, from the replies of its rounds.
//!
//! Owns the definition of each figure. Pure: no clock, no connection.

use ingle_protocol::wire::generate::GenerateResult;
use serde::Serialize;

/// One round of concurrent requests.
pub(super) struct Round {
    /// The time from before the first request was sent until the last was answered.
    pub(super) seconds: f64,
    /// Their replies.
    pub(super) results: Vec<GenerateResult>,
}

/// Median and best value of a figure over all rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Statistic {
    /// The median.
    pub(super) median: f64,
    /// The shortest time or the highest rate.
    pub(super) best: f64,
}

/// The figures for one number of concurrent requests.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Figures {
    /// The number of concurrent requests.
    #[serde(rename = "concurrency")]
    pub(super) at_once: usize,
    /// Tokens of the longest prompt.
    pub(super) prompt_tokens: usize,
    /// Tokens of the shortest completion.
    pub(super) completion_tokens: usize,
    /// Prompt tokens that came from the prompt cache, in all rounds.
    pub(super) cached_tokens: usize,
    /// Time to first token, from a request's acceptance.
    pub(super) ttft_ms: Statistic,
    /// Prefill throughput of one request, in tokens per second.
    pub(super) prompt_tokens_per_s: Statistic,
    /// Decode throughput of one request, in tokens per second after its first token.
    pub(super) decode_tokens_per_s: Statistic,
    /// Prefill throughput of all requests of a round, until the last has its first token.
    pub(super) all_prompt_tokens_per_s: Statistic,
    /// Output throughput of all requests of a round, over the whole round.
    pub(super) all_output_tokens_per_s: Statistic,
}

impl Figures {
    /// Computes the figures of rounds of `at_once` requests each.
    #[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
    pub(super) fn of(at_once: usize, rounds: &[Round]) -> Self {
        let results = || rounds.iter().flat_map(|round| &round.results);
        let sum = |round: &Round, count: fn(&GenerateResult) -> usize| -> f64 {
            round.results.iter().map(count).sum::<usize>() as f64
        };
        let all_prompts = rounds.iter().map(|round| {
            let ttfts = round.results.iter().map(|result| result.timings.ttft_ms / 1e3);
            let until = ttfts.fold(0.0, f64::max);
            let read = |result: &GenerateResult| {
                result.usage.prompt_tokens.saturating_sub(result.usage.cached_tokens)
            };
            rate(sum(round, read), until)
        });
        let all_output = rounds
            .iter()
            .map(|round| rate(sum(round, |result| result.usage.completion_tokens), round.seconds));
        let timings = || results().map(|result| &result.timings);
        let usages = || results().map(|result| &result.usage);
        Self {
            at_once,
            prompt_tokens: usages().map(|usage| usage.prompt_tokens).max().unwrap_or(0),
            completion_tokens: usages().map(|usage| usage.completion_tokens).min().unwrap_or(0),
            cached_tokens: usages().map(|usage| usage.cached_tokens).sum(),
            ttft_ms: Statistic::of(timings().map(|timings| timings.ttft_ms), f64::min),
            prompt_tokens_per_s: highest(timings().map(|timings| timings.prefill_tokens_per_s)),
            decode_tokens_per_s: highest(timings().map(|timings| timings.decode_tokens_per_s)),
            all_prompt_tokens_per_s: highest(all_prompts),
            all_output_tokens_per_s: highest(all_output),
        }
    }
}

fn highest(values: impl Iterator<Item = f64>) -> Statistic {
    Statistic::of(values, f64::max)
}

fn rate(count: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { count / seconds } else { 0.0 }
}

impl Statistic {
    /// Computes both over the values; 0 where there are none.
    fn of(values: impl Iterator<Item = f64>, better: fn(f64, f64) -> f64) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match (values.get(middle), values.get(middle.wrapping_sub(1))) {
            (Some(upper), Some(lower)) if values.len().is_multiple_of(2) => {
                f64::midpoint(*upper, *lower)
            }
            (Some(middle), _) => *middle,
            (None, _) => 0.0,
        };
        Self { median, best: values.into_iter().reduce(better).unwrap_or(0.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_daemon::generated;

    fn result(ttft_ms: f64, decode: f64, cached: usize) -> GenerateResult {
        let mut result: GenerateResult = serde_json::from_value(generated("")).unwrap();
        result.usage.prompt_tokens = 100;
        result.usage.cached_tokens = cached;
        result.usage.completion_tokens = 20;
        result.timings.ttft_ms = ttft_ms;
        result.timings.prefill_tokens_per_s = 50.0;
        result.timings.decode_tokens_per_s = decode;
        result
    }

    #[test]
    fn figures_cover_one_request_and_all() {
        let rounds = [
            Round { seconds: 5.0, results: vec![result(1_000.0, 8.0, 0), result(2_000.0, 6.0, 0)] },
            Round {
                seconds: 10.0,
                results: vec![result(1_000.0, 4.0, 0), result(4_000.0, 2.0, 20)],
            },
        ];
        let figures = Figures::of(2, &rounds);
        assert_eq!((figures.prompt_tokens, figures.completion_tokens), (100, 20));
        assert_eq!(figures.cached_tokens, 20);
        assert_eq!(figures.ttft_ms, Statistic { median: 1_500.0, best: 1_000.0 });
        assert_eq!(figures.decode_tokens_per_s, Statistic { median: 5.0, best: 8.0 });
        // 200 tokens in 2 s, and 180 in 4 s; 40 tokens in 5 s, and in 10 s.
        assert_eq!(figures.all_prompt_tokens_per_s, Statistic { median: 72.5, best: 100.0 });
        assert_eq!(figures.all_output_tokens_per_s, Statistic { median: 6.0, best: 8.0 });
    }

    #[test]
    fn median_of_odd_count_and_of_none() {
        let spread = |values: &[f64]| Statistic::of(values.iter().copied(), f64::max);
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Statistic { median: 2.0, best: 3.0 });
        assert_eq!(spread(&[]), Statistic { median: 0.0, best: 0.0 });
    }
}
