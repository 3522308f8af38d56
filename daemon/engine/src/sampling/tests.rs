//! Tests of the reference sampler against slow, obvious definitions.

use proptest::prelude::*;

use super::*;

fn spec(settings: SamplerSettings, uniform: f32) -> SampleSpec {
    SampleSpec { settings, uniform, ..SampleSpec::GREEDY }
}

fn plain(temperature: f32) -> SamplerSettings {
    SamplerSettings { temperature, ..SamplerSettings::GREEDY }
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// The filters one after the other, each on the renormalised rest, as llama.cpp applies them.
fn reference(logits: &[f32], settings: &SamplerSettings) -> Vec<(u32, f64)> {
    let mut rest: Vec<(u32, f64)> =
        logits.iter().enumerate().map(|(id, &logit)| (id as u32, f64::from(logit))).collect();
    rest.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if settings.top_k > 0 {
        rest.truncate(settings.top_k as usize);
    }
    if settings.top_p < 1.0 {
        let shares = softmax(&rest.iter().map(|entry| entry.1).collect::<Vec<_>>());
        let mut sum = 0.0;
        let reached = shares.iter().position(|share| {
            sum += share;
            sum >= f64::from(settings.top_p)
        });
        rest.truncate(reached.map_or(rest.len(), |last| last + 1));
    }
    let shares = softmax(&rest.iter().map(|entry| entry.1).collect::<Vec<_>>());
    let least = shares[0] * f64::from(settings.min_p);
    let mut index = 0;
    rest.retain(|_| {
        index += 1;
        shares[index - 1] >= least
    });
    let scaled: Vec<f64> =
        rest.iter().map(|entry| entry.1 / f64::from(settings.temperature)).collect();
    rest.iter().zip(softmax(&scaled)).map(|(entry, share)| (entry.0, share)).collect()
}

/// Logits on a grid, so that ties are common, and never so close that rounding decides a filter.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    proptest::collection::vec((-24_i8..24).prop_map(|step| f32::from(step) / 4.0), 1..200)
}

proptest! {
    #[test]
    fn draws_follow_the_filtered_distribution(
        logits in logits(),
        temperature in 0.25_f32..3.0,
        top_k in 0_u32..100,
        top_p in prop_oneof![Just(1.0_f32), 0.013_f32..0.987],
        min_p in prop_oneof![Just(0.0_f32), 0.013_f32..0.5],
    ) {
        let settings = SamplerSettings { temperature, top_k, top_p, min_p };
        let expected = reference(&logits, &settings);
        const STEPS: u32 = 2000;
        let mut counts = vec![0_u32; logits.len()];
        for step in 0..STEPS {
            let uniform = (step as f32 + 0.5) / STEPS as f32;
            counts[sample(&logits, &spec(settings, uniform)).unwrap().token as usize] += 1;
        }
        // Evenly spaced draws hit each token in proportion, to within one step at either end.
        let mut drawn = 0;
        for (id, share) in expected {
            let count = f64::from(counts[id as usize]);
            prop_assert!((count - share * f64::from(STEPS)).abs() < 2.1, "{id}: {count} {share}");
            drawn += counts[id as usize];
        }
        prop_assert_eq!(drawn, STEPS, "a token was drawn that the filters drop");
    }

    #[test]
    fn a_temperature_near_zero_is_greedy(logits in logits(), uniform in 0.0_f32..1.0) {
        let greedy = sample(&logits, &spec(SamplerSettings::GREEDY, uniform)).unwrap();
        let best = logits.iter().copied().fold(f32::MIN, f32::max);
        let first = logits.iter().position(|&logit| logit == best).unwrap();
        prop_assert_eq!(greedy.token as usize, first);
        let cold = sample(&logits, &spec(plain(1e-6), uniform)).unwrap();
        prop_assert_eq!(logits[cold.token as usize], best);
        let one = SamplerSettings { top_k: 1, ..plain(1.0) };
        prop_assert_eq!(sample(&logits, &spec(one, uniform)).unwrap().token, greedy.token);
        let none = SamplerSettings { top_p: 0.0, ..plain(1.0) };
        prop_assert_eq!(sample(&logits, &spec(none, uniform)).unwrap().token, greedy.token);
    }

    #[test]
    fn log_probabilities_are_the_models_own(logits in logits(), count in 0_usize..150) {
        let wide: Vec<f64> = logits.iter().copied().map(f64::from).collect();
        let shares = softmax(&wide);
        let settings = SamplerSettings { top_k: 3, ..plain(0.7) };
        let spec = SampleSpec { logprobs: Some(count), ..spec(settings, 0.5) };
        let sampled = sample(&logits, &spec).unwrap();
        prop_assert!((f64::from(sampled.logprob) - shares[sampled.token as usize].ln()).abs() < 1e-5);
        prop_assert_eq!(sampled.top.len(), count.min(logits.len()));
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| {
            logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b))
        });
        for ((id, logprob), expected) in sampled.top.iter().zip(order) {
            prop_assert_eq!(*id, expected);
            prop_assert!((f64::from(*logprob) - shares[*id as usize].ln()).abs() < 1e-5);
        }
    }
}

#[test]
fn top_p_works_on_a_flat_distribution_of_a_large_vocabulary() {
    let logits = vec![0.0; 5000];
    let settings = SamplerSettings { top_p: 0.5, ..plain(1.0) };
    let last = sample(&logits, &spec(settings, 0.999_999)).unwrap().token;
    assert_eq!(last, 2499);
}

#[test]
fn logits_that_are_not_finite_are_refused() {
    let what = |logits: &[f32]| match sample(logits, &spec(plain(1.0), 0.5)) {
        Err(SampleError::NotFinite { what }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(what(&[0.0, f32::NAN, f32::INFINITY]), "NaN");
    assert_eq!(what(&[0.0, f32::INFINITY]), "infinity");
    assert_eq!(what(&[f32::NEG_INFINITY; 2]), "no possible token");
    assert_eq!(what(&[]), "no possible token");
}

#[test]
fn a_token_of_negative_infinity_is_never_drawn() {
    let logits = [f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY];
    for uniform in [0.0, 0.5, 1.0] {
        assert_eq!(sample(&logits, &spec(plain(5.0), uniform)).unwrap().token, 1);
    }
}

#[test]
fn settings_out_of_range_are_named() {
    let message = |settings: SamplerSettings| settings.validate().unwrap_err().to_string();
    assert_eq!(message(plain(-1.0)), "`temperature` must be a number from 0 to 100, not -1");
    assert!(message(plain(f32::NAN)).ends_with("not NaN"));
    let settings = SamplerSettings { top_p: 1.5, ..plain(1.0) };
    assert_eq!(message(settings), "`top_p` must be a number from 0 to 1, not 1.5");
    let settings = SamplerSettings { min_p: -0.5, ..plain(1.0) };
    assert_eq!(message(settings), "`min_p` must be a number from 0 to 1, not -0.5");
    assert_eq!(SamplerSettings::GREEDY.validate(), Ok(()));
}

#[test]
fn equal_seeds_give_equal_even_draws() {
    let (mut first, mut second) = (UniformDraws::new(7), UniformDraws::new(7));
    let mut buckets = [0_u32; 10];
    for _ in 0..10_000 {
        let draw = first.draw();
        assert_eq!(draw, second.draw());
        buckets[(draw * 10.0) as usize] += 1;
    }
    assert!(buckets.iter().all(|count| (850..1150).contains(count)), "{buckets:?}");
    assert_ne!(UniformDraws::new(8).draw(), UniformDraws::new(7).draw());
}

#[test]
fn the_exponential_is_exact_to_single_precision() {
    for step in 0..87_000 {
        let x = -(step as f32) / 1_000.0;
        let exact = f64::from(x).exp();
        assert!((f64::from(exp(x)) - exact).abs() <= exact * 2.5e-7, "{x}");
    }
    assert_eq!((exp(0.0), exp(-88.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
}

/// The short list does not reach the share here, and the last kept token is one of many alike.
#[test]
fn a_wide_nucleus_ends_where_the_share_is_reached() {
    let logits: Vec<f32> = (0..30_000_i16).map(|id| -f32::from(id % 500) / 100.0).collect();
    let settings = SamplerSettings { top_p: 0.9, ..plain(1.0) };
    let expected = reference(&logits, &settings);
    let ids: Vec<u32> = expected.into_iter().map(|entry| entry.0).collect();
    assert_eq!(kept(&logits, 0.0, &settings).unwrap(), ids);
    let settings = SamplerSettings { top_k: 777, ..plain(1.0) };
    let ids: Vec<u32> = reference(&logits, &settings).into_iter().map(|entry| entry.0).collect();
    assert_eq!(kept(&logits, 0.0, &settings).unwrap(), ids);
}

#[test]
fn penalties_change_what_is_drawn_and_not_what_is_reported() {
    let logits = [3.0, 2.5, 0.0];
    let settings = PenaltySettings { presence: 1.0, ..PenaltySettings::NONE };
    let mut penalties = Penalties::new(settings, [(2, -5.0)].into(), &[]).unwrap();
    penalties.push(0);
    let penalties = Some(Arc::new(penalties));
    let greedy = SampleSpec { penalties, logprobs: Some(2), ..spec(SamplerSettings::GREEDY, 0.0) };
    let sampled = sample(&logits, &greedy).unwrap();
    assert_eq!(sampled.token, 1, "2.5 is more than 3.0 - 1.0");
    let shares = softmax(&logits.map(f64::from));
    assert!((f64::from(sampled.logprob) - shares[1].ln()).abs() < 1e-6);
    assert_eq!(sampled.top.iter().map(|entry| entry.0).collect::<Vec<_>>(), [0, 1]);
    let unasked = SampleSpec { logprobs: None, ..greedy };
    let expected = SampledToken { token: 1, logprob: 0.0, top: Vec::new() };
    assert_eq!(sample(&logits, &unasked).unwrap(), expected);
}

#[test]
fn choices_have_streams_of_their_own_and_the_first_has_the_requests() {
    assert_eq!(choice_seed(7, 0), 7);
    let firsts = |seed| {
        let mut draws = UniformDraws::new(seed);
        (0..64).map(|_| draws.draw().to_bits()).collect::<Vec<_>>()
    };
    let streams: Vec<_> = (0..8).map(|choice| firsts(choice_seed(7, choice))).collect();
    let all: std::collections::BTreeSet<u32> = streams.iter().flatten().copied().collect();
    assert_eq!(all.len(), 8 * 64, "no stream goes over into another");
    assert!(choice_seed(u64::MAX, 3) < 1 << 53);
}

#[test]
fn only_members_of_the_mask_are_drawn_whatever_the_settings() {
    let logits: Vec<f32> = (0..100_u8).map(|id| f32::from(id) * 0.1).collect();
    let set = |ids: &[u32]| {
        let mut words = vec![0; 3];
        for id in ids {
            words[*id as usize / 32] |= 1 << (id % 32);
        }
        Some(Mask::Ready(Arc::new(TokenSet::new(words))))
    };
    let bias: Arc<[(u32, f32)]> = Arc::new([(99, 100.0), (40, 1.0)]);
    let penalties = Penalties::new(PenaltySettings::NONE, bias, &[]).map(Arc::new);
    for settings in [
        SamplerSettings::GREEDY,
        SamplerSettings { temperature: 50.0, ..SamplerSettings::GREEDY },
        SamplerSettings { temperature: 2.0, top_k: 2, ..SamplerSettings::GREEDY },
        SamplerSettings { temperature: 2.0, top_p: 0.1, min_p: 0.9, ..SamplerSettings::GREEDY },
    ] {
        for uniform in [0.0, 0.3, 0.999] {
            for penalties in [None, penalties.clone()] {
                let plain = SampleSpec { logprobs: Some(3), ..spec(settings, uniform) };
                let free = sample(
                    &logits,
                    &SampleSpec { settings: SamplerSettings::GREEDY, ..plain.clone() },
                );
                let held = SampleSpec { mask: set(&[3, 40, 41]), penalties, ..plain };
                let drawn = sample(&logits, &held).unwrap();
                assert!([3, 40, 41].contains(&drawn.token), "{drawn:?}");
                // What is reported is the model's own distribution.
                assert_eq!(drawn.top, free.unwrap().top);
                let forced = SampleSpec { mask: set(&[3]), ..held };
                assert_eq!(sample(&logits, &forced).unwrap().token, 3);
            }
        }
    }
    // The bias decides among what is allowed.
    let held = SampleSpec { mask: set(&[40, 45]), penalties, ..SampleSpec::GREEDY };
    assert_eq!(sample(&logits, &held).unwrap().token, 40);
    let none = SampleSpec { mask: set(&[]), ..SampleSpec::GREEDY };
    assert_eq!(sample(&logits, &none), Err(SampleError::NotFinite { what: "no possible token" }));
    assert!(
        TokenSet::new(vec![0, 5]).only().is_none() && TokenSet::new(vec![0, 4]).only() == Some(34)
    );
}
