//! Sampling fields that chat and completions share.
//!
//! Owns their declaration and their conversion to the service's parameters. A macro adds them to a
//! request instead of serde's `flatten`, which would lose the path of a field in errors.

use schemars::{Schema, SchemaGenerator, json_schema};

/// Declares a request with its own fields and the shared sampling fields.
macro_rules! request_with_sampling {
    ($(#[$meta:meta])* pub struct $name:ident { $($own:tt)* }) => {
        $(#[$meta])*
        pub struct $name {
            $($own)*
            /// Sampling temperature; 0 is greedy (default 1).
            #[schemars(range(min = sampling::TEMPERATURE.min, max = sampling::TEMPERATURE.max))]
            pub temperature: Option<f32>,
            /// Nucleus sampling.
            #[schemars(
                range(min = sampling::TOP_P.min, max = sampling::TOP_P.max),
                description = sampling::TOP_P.description
            )]
            pub top_p: Option<f32>,
            /// Extension: samples from the `top_k` likeliest tokens only; 0 (the default) keeps
            /// all.
            #[schemars(range(min = 0, max = u32::MAX))]
            pub top_k: Option<u32>,
            /// Extension: minimum share of the likeliest token's probability.
            #[schemars(
                range(min = sampling::MIN_P.min, max = sampling::MIN_P.max),
                description = sampling::MIN_P.description
            )]
            pub min_p: Option<f32>,
            /// Extension: repetition penalty.
            #[schemars(
                range(
                    min = sampling::REPETITION_PENALTY.min,
                    max = sampling::REPETITION_PENALTY.max
                ),
                description = sampling::REPETITION_PENALTY.description
            )]
            pub repetition_penalty: Option<f32>,
            /// Frequency penalty.
            #[schemars(
                range(
                    min = sampling::FREQUENCY_PENALTY.min,
                    max = sampling::FREQUENCY_PENALTY.max
                ),
                description = sampling::FREQUENCY_PENALTY.description
            )]
            pub frequency_penalty: Option<f32>,
            /// Presence penalty.
            #[schemars(
                range(
                    min = sampling::PRESENCE_PENALTY.min,
                    max = sampling::PRESENCE_PENALTY.max
                ),
                description = sampling::PRESENCE_PENALTY.description
            )]
            pub presence_penalty: Option<f32>,
            /// Bias, -100 to 100, that is added to the logits of these token ids of the model.
            #[serde(default)]
            #[schemars(schema_with = "super::sampling::logit_bias_schema")]
            pub logit_bias: Option<BTreeMap<u32, f32>>,
            /// Random seed, for reproducible output.
            #[schemars(range(min = i64::MIN, max = i64::MAX))]
            pub seed: Option<i64>,
        }

        impl $name {
            /// The service's parameters with the sampling fields only. OpenAI's default temperature
            /// applies instead of ours.
            pub(crate) fn sampling(&self) -> GenerateParams {
                GenerateParams {
                    temperature: Some(self.temperature.unwrap_or(super::sampling::TEMPERATURE)),
                    top_k: self.top_k,
                    top_p: self.top_p,
                    min_p: self.min_p,
                    repetition_penalty: self.repetition_penalty,
                    frequency_penalty: self.frequency_penalty,
                    presence_penalty: self.presence_penalty,
                    logit_bias: self.logit_bias.clone().unwrap_or_default(),
                    seed: self.seed.map(i64::cast_unsigned),
                    ..GenerateParams::default()
                }
            }
        }
    };
}
pub(super) use request_with_sampling;

/// The temperature of a request without one: OpenAI's default.
pub(super) const TEMPERATURE: f32 = 1.0;

/// The schema of logit biases by token id. The ids are strings in JSON.
pub(super) fn logit_bias_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["object", "null"],
        "propertyNames": { "pattern": "^[0-9]{1,9}$" },
        "additionalProperties": { "type": "number", "minimum": -100, "maximum": 100 },
        "maxProperties": 1024,
    })
}
