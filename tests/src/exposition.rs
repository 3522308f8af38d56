//! A strict reader of Prometheus' text exposition format.
//!
//! Owns the rules of a scraper and stricter ones: every family has its help and type before
//! its samples and is in one place, no series repeats, a histogram's buckets ascend and end
//! with all. Written from the format's documentation; it shares no code with the daemon's writer.

use std::collections::{BTreeMap, BTreeSet};

/// Labels, by name.
pub type Labels = BTreeMap<String, String>;

/// An exposition that satisfies every rule.
#[derive(Debug, Default)]
pub struct Exposition {
    /// Each family's type.
    pub kinds: BTreeMap<String, String>,
    samples: BTreeMap<(String, Labels), f64>,
}

impl Exposition {
    /// Reads an exposition.
    ///
    /// # Panics
    /// When a line breaks a rule; the message has the line.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut read = Self::default();
        let (mut family, mut helps) = (String::new(), BTreeSet::new());
        assert!(text.ends_with('\n'), "the last line is not ended");
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect("a name and its help");
                assert!(is_name(name) && !words.is_empty(), "{line}");
                assert!(helps.insert(name.to_owned()), "help comes twice: {line}");
                name.clone_into(&mut family);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a name and its type");
                assert_eq!(name, family, "the type of another family: {line}");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(read.kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            } else {
                read.sample(line, &family);
            }
        }
        read.check_histograms();
        read
    }

    fn sample(&mut self, line: &str, family: &str) {
        let kind = self.kinds.get(family).unwrap_or_else(|| panic!("before its type: {line}"));
        let (series, value) = line.rsplit_once(' ').expect("a series and its value");
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => {
                (name, read_labels(labels.strip_suffix('}').expect("a closing brace")))
            }
            None => (series, Labels::new()),
        };
        let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("not here: {line}"));
        match kind.as_str() {
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
            _ => assert_eq!(suffix, "", "{line}"),
        }
        assert_eq!(labels.contains_key("le"), suffix == "_bucket", "{line}");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let series = (name.to_owned(), labels);
        assert!(self.samples.insert(series, value).is_none(), "it comes twice: {line}");
    }

    fn check_histograms(&self) {
        for (name, _) in self.kinds.iter().filter(|(_, kind)| *kind == "histogram") {
            let mut all: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
            for (labels, value) in self.series(&format!("{name}_bucket")) {
                let mut labels = labels.clone();
                let end = labels.remove("le").expect("a bucket's end").replace("+Inf", "inf");
                all.entry(labels).or_default().push((end.parse().expect("a number"), value));
            }
            assert_eq!(all.len(), self.series(&format!("{name}_count")).count(), "{name}");
            assert_eq!(all.len(), self.series(&format!("{name}_sum")).count(), "{name}");
            for (labels, mut buckets) in all {
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(
                    buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1),
                    "{name}: {labels:?}"
                );
                let (end, count) = *buckets.last().expect("a bucket");
                let counted = self.samples.get(&(format!("{name}_count"), labels.clone()));
                assert!(end.is_infinite() && counted == Some(&count), "{name}: {labels:?}");
            }
        }
    }

    /// The samples with this name.
    pub fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Labels, f64)> {
        let mine = self.samples.iter().filter(move |((known, _), _)| known == name);
        mine.map(|((_, labels), value)| (labels, *value))
    }

    /// The sum of the samples that have at least these labels.
    ///
    /// # Panics
    /// When no sample has them.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |known: &Labels, (name, value): &(&str, &str)| {
            known.get(*name).is_some_and(|known| known == value)
        };
        let mine =
            self.series(name).filter(|(known, _)| labels.iter().all(|pair| has(known, pair)));
        let values: Vec<f64> = mine.map(|(_, value)| value).collect();
        assert!(!values.is_empty(), "no sample of {name} {labels:?}");
        values.iter().sum()
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with("ingle_")
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// `a="x",b="y"`, with `\\`, `\"` and `\n` in the values.
fn read_labels(text: &str) -> Labels {
    let mut labels = Labels::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, quoted) = rest.split_once("=\"").expect("a name and a value");
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next().expect("a closing quote") {
                (end, '"') => break end,
                (_, '\\') => match chars.next().expect("an escape").1 {
                    'n' => value.push('\n'),
                    c @ ('"' | '\\') => value.push(c),
                    c => panic!("no such escape: \\{c}"),
                },
                (_, c) => value.push(c),
            }
        };
        assert!(labels.insert(name.to_owned(), value).is_none(), "a label comes twice: {text}");
        rest = &quoted[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    labels
}
