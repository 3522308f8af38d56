//! Bias and penalties against figures of mlx-lm 0.32.2 and against slow, obvious loops.

use proptest::prelude::*;

use super::*;

const TABLE: [f32; 6] = [2.0, -1.0, 0.5, 3.0, -0.25, 1.5];
const PROMPT: [u32; 4] = [5, 3, 0, 1];
const GENERATED: [u32; 4] = [4, 3, 3, 0];

fn applied(settings: PenaltySettings, bias: &[(u32, f32)], table: &[f32]) -> Vec<f32> {
    let mut penalties = Penalties::new(settings, bias.into(), &PROMPT).unwrap();
    for token in GENERATED {
        penalties.push(token);
    }
    let mut logits = table.to_vec();
    penalties.apply(&mut logits);
    logits
}

/// The expected rows were printed by mlx-lm 0.32.2's `make_logits_processors` on these tokens: the
/// repetition penalty over prompt and text, the other two over the text alone.
#[test]
fn penalties_give_mlx_lms_figures() {
    let repetition = |window| PenaltySettings {
        repetition: 1.25,
        repetition_window: window,
        ..PenaltySettings::NONE
    };
    let counted = PenaltySettings { frequency: 0.5, presence: 0.25, ..PenaltySettings::NONE };
    let all = PenaltySettings { frequency: 0.5, presence: 0.25, ..repetition(5) };
    for (settings, bias, expected) in [
        (repetition(4), &[][..], [1.6, -1.0, 0.5, 2.4, -0.3125, 1.5]),
        (repetition(100), &[], [1.6, -1.25, 0.5, 2.4, -0.3125, 1.2]),
        (counted, &[], [1.25, -1.0, 0.5, 1.75, -1.0, 1.5]),
        (all, &[(1, 4.0), (3, -1.5)], [0.85, 2.4, 0.5, -0.05, -1.0625, 1.5]),
    ] {
        for (found, expected) in applied(settings, bias, &TABLE).into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{settings:?}: {found} {expected}");
        }
    }
}

#[test]
fn nothing_to_do_is_no_state_and_no_work() {
    assert_eq!(Penalties::new(PenaltySettings::NONE, [].into(), &PROMPT), None);
    let bias: Arc<[(u32, f32)]> = [(9, 5.0)].into();
    assert!(Penalties::new(PenaltySettings::NONE, bias, &PROMPT).is_some());
}

#[test]
fn logits_stay_what_they_were_where_no_number_would_come_of_it() {
    let settings =
        PenaltySettings { repetition: 0.01, repetition_window: 9, ..PenaltySettings::NONE };
    let table = [f32::NEG_INFINITY, 1.0, 1.0, f32::MAX, -1.0];
    let bias = [(0, 100.0), (77, 1.0)];
    let logits = applied(settings, &bias, &table);
    assert_eq!(logits, [f32::NEG_INFINITY, 100.0, 1.0, f32::MAX, -0.01]);
}

#[test]
fn settings_out_of_range_are_named() {
    let none = PenaltySettings::NONE;
    for (settings, named) in [
        (PenaltySettings { repetition: 0.0, ..none }, "`repetition_penalty` must be a number from"),
        (PenaltySettings { repetition: f32::NAN, ..none }, "`repetition_penalty`"),
        (
            PenaltySettings { frequency: 2.5, ..none },
            "`frequency_penalty` must be a number from -2",
        ),
        (PenaltySettings { presence: f32::NEG_INFINITY, ..none }, "`presence_penalty`"),
    ] {
        let message = settings.validate().unwrap_err().to_string();
        assert!(message.starts_with(named), "{message}");
    }
    assert_eq!(none.validate(), Ok(()));
}

proptest! {
    /// The definitions, over the whole history each time.
    #[test]
    fn running_counts_are_the_whole_histories(
        prompt in proptest::collection::vec(0_u32..12, 0..30),
        generated in proptest::collection::vec(0_u32..12, 0..30),
        bias in proptest::collection::btree_map(0_u32..12, -3.0_f32..3.0, 0..4),
        repetition in prop_oneof![Just(1.0_f32), 0.5_f32..2.0],
        repetition_window in 1_usize..40,
        (frequency, presence) in prop_oneof![Just((0.0_f32, 0.0_f32)), (-2.0_f32..2.0, -2.0_f32..2.0)],
    ) {
        let settings = PenaltySettings { repetition, repetition_window, frequency, presence };
        let mut logits: Vec<f32> = (0..10_i8).map(|id| f32::from(id) - 4.5).collect();
        let mut expected = logits.clone();
        let pairs: Arc<[(u32, f32)]> = bias.iter().map(|(&id, &bias)| (id, bias)).collect();
        if let Some(mut penalties) = Penalties::new(settings, pairs, &prompt) {
            for &token in &generated {
                penalties.push(token);
            }
            penalties.apply(&mut logits);
        }
        let all: Vec<u32> = prompt.iter().chain(&generated).copied().collect();
        let recent = &all[all.len().saturating_sub(repetition_window)..];
        for (id, logit) in expected.iter_mut().enumerate() {
            let id = id as u32;
            *logit += bias.get(&id).copied().unwrap_or(0.0);
            if recent.contains(&id) {
                *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            }
            let count = generated.iter().filter(|&&token| token == id).count();
            if count > 0 {
                *logit -= count as f32 * frequency + presence;
            }
        }
        for (found, expected) in logits.iter().zip(expected) {
            prop_assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }
}
