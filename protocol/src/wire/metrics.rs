//! `metrics`: the daemon's counters and measurements since its start.
//!
//! Owns the two formats: Prometheus' text, and the same as structured families. The names of the
//! metrics and their meaning are the daemon's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Method;

/// Reads the metrics.
#[derive(Debug)]
pub struct Metrics;

impl Method for Metrics {
    const NAME: &'static str = "metrics";
    type Params = MetricsParams;
    type Output = MetricsReply;
}

/// Parameters of `metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MetricsParams {
    /// The format of the reply.
    #[serde(default)]
    pub format: MetricsFormat,
}

/// A format of the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum MetricsFormat {
    /// Prometheus' text.
    #[default]
    Text,
    /// Structured families.
    Families,
}

/// The metrics, in the requested format.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MetricsReply {
    /// Prometheus' text exposition format, version 0.0.4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The same as structured families.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub families: Option<Vec<Family>>,
}

/// All samples of one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Family {
    /// The metric's name, with its unit.
    pub name: String,
    /// The description.
    pub help: String,
    /// The type.
    pub kind: FamilyKind,
    /// Its samples; none where no value is known.
    pub samples: Vec<Sample>,
}

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FamilyKind {
    /// It only grows, from 0 at the daemon's start.
    Counter,
    /// It is a present value.
    Gauge,
    /// Counts in buckets: samples `_bucket` with the label `le`, `_sum` and `_count`.
    Histogram,
}

impl FamilyKind {
    /// The name in Prometheus' text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Sample {
    /// The family's name; in a histogram with its suffix.
    pub name: String,
    /// The labels that distinguish it from the family's other samples.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The value; always finite.
    pub value: f64,
}
