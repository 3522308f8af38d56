//! Metric families, as one reading puts them together.
//!
//! Owns their structure: a family is opened once and then gets its samples, and its type decides
//! what a sample may be. Does not know what is measured.

use std::time::Duration;

use ingle_protocol::wire::metrics::{Family, FamilyKind, Sample};

use super::Edge;
use ingle_engine::histogram::HistogramSnapshot;

/// A label of a sample.
pub type Label<'a> = (&'static str, &'a str);

/// The label of an edge.
#[must_use]
pub fn labels(edge: Edge) -> [Label<'static>; 1] {
    [("edge", edge.as_str())]
}

/// Families in the order of their output.
#[derive(Debug, Default)]
pub struct Families(Vec<Family>);

impl Families {
    /// A new family of values that only grow. Its name ends with `_total`.
    pub fn counter(&mut self, name: &str, help: &str) -> Counter<'_> {
        Counter(self.open(name, help, FamilyKind::Counter))
    }

    /// A new family of values that can go up and down.
    pub fn gauge(&mut self, name: &str, help: &str) -> Gauge<'_> {
        Gauge(self.open(name, help, FamilyKind::Gauge))
    }

    /// A new family of counted durations, in seconds.
    pub fn histogram(&mut self, name: &str, help: &str) -> Durations<'_> {
        Durations(self.open(name, help, FamilyKind::Histogram))
    }

    /// All of them.
    #[must_use]
    pub fn into_inner(self) -> Vec<Family> {
        self.0
    }

    fn open(&mut self, name: &str, help: &str, kind: FamilyKind) -> &mut Family {
        let (name, help) = (name.to_owned(), help.to_owned());
        self.0.push_mut(Family { name, help, kind, samples: Vec::new() })
    }
}

fn push(family: &mut Family, suffix: &str, labels: &[Label<'_>], value: f64) {
    let name = format!("{}{suffix}", family.name);
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    family.samples.push(Sample { name, labels: labels.collect(), value });
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes are far below 2^53")]
const fn number(count: u64) -> f64 {
    count as f64
}

/// A family of counters.
#[derive(Debug)]
pub struct Counter<'a>(&'a mut Family);

impl Counter<'_> {
    /// A count.
    pub fn count<const N: usize>(&mut self, labels: [Label<'_>; N], count: u64) {
        push(self.0, "", &labels, number(count));
    }

    /// Time that was spent, in seconds.
    pub fn seconds<const N: usize>(&mut self, labels: [Label<'_>; N], spent: Duration) {
        push(self.0, "", &labels, spent.as_secs_f64());
    }
}

/// A family of gauges.
#[derive(Debug)]
pub struct Gauge<'a>(&'a mut Family);

impl Gauge<'_> {
    /// A number of something.
    pub fn size<const N: usize>(&mut self, labels: [Label<'_>; N], size: usize) {
        self.whole(labels, size as u64);
    }

    /// A whole number: bytes, or 0 and 1 for no and yes.
    pub fn whole<const N: usize>(&mut self, labels: [Label<'_>; N], value: u64) {
        push(self.0, "", &labels, number(value));
    }

    /// A time, in seconds.
    pub fn seconds<const N: usize>(&mut self, labels: [Label<'_>; N], time: Duration) {
        push(self.0, "", &labels, time.as_secs_f64());
    }
}

/// A family of histograms of durations.
#[derive(Debug)]
pub struct Durations<'a>(&'a mut Family);

impl Durations<'_> {
    /// One histogram.
    pub fn buckets(&mut self, labels: &[Label<'_>], reading: &HistogramSnapshot) {
        for (bound, count) in reading.cumulative() {
            let bound = bound.as_secs_f64().to_string();
            push(self.0, "_bucket", &[labels, &[("le", bound.as_str())]].concat(), number(count));
        }
        let all = number(reading.count());
        push(self.0, "_bucket", &[labels, &[("le", "+Inf")]].concat(), all);
        push(self.0, "_sum", labels, reading.sum.as_secs_f64());
        push(self.0, "_count", labels, all);
    }
}
