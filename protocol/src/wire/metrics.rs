//! `metrics`: what the daemon has counted and measured since its start.
//!
//! The names and their meaning are the daemon's; the form is Prometheus', as text or as its parts.

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

/// In which form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsParams {
    /// The form.
    #[serde(default)]
    pub format: MetricsFormat,
}

/// A form of the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricsFormat {
    /// Prometheus' text.
    #[default]
    Text,
    /// Its parts.
    Families,
}

/// The metrics, in the form asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricsReply {
    /// Prometheus' text exposition format, version 0.0.4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The same as its parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub families: Option<Vec<Family>>,
}

/// All samples of one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Family {
    /// The metric's name, with its unit.
    pub name: String,
    /// What it says.
    pub help: String,
    /// How it behaves.
    pub kind: FamilyKind,
    /// Its samples; none where nothing is known.
    pub samples: Vec<Sample>,
}

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FamilyKind {
    /// It only grows, from 0 at the daemon's start.
    Counter,
    /// It is what it is now.
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
pub struct Sample {
    /// The family's name, and in a histogram what it is of it.
    pub name: String,
    /// What tells it from the family's other samples.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The value; always finite.
    pub value: f64,
}
