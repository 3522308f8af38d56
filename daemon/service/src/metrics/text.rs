//! Prometheus' text exposition format, version 0.0.4.
//!
//! Owns the rendering of families. It takes 30 lines; the library `prometheus-client` writes
//! OpenMetrics instead, and would own the values, which the engine thread must own here.
//!
//! Source: Prometheus documentation, "Exposition formats".

use std::fmt::Write;

use ingle_protocol::wire::metrics::Family;

/// The content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The families as text.
#[must_use]
pub fn render(families: &[Family]) -> String {
    let mut text = String::new();
    for Family { name, help, kind, samples } in families {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {}", escape(help, false));
        let _ = writeln!(text, "# TYPE {name} {}", kind.as_str());
        for sample in samples {
            text.push_str(&sample.name);
            // `le` comes last, by convention.
            let (ends, others): (Vec<_>, Vec<_>) =
                sample.labels.iter().partition(|(name, _)| *name == "le");
            let mut separator = '{';
            for (name, value) in others.into_iter().chain(ends) {
                let _ = write!(text, "{separator}{name}=\"{}\"", escape(value, true));
                separator = ',';
            }
            if !sample.labels.is_empty() {
                text.push('}');
            }
            let _ = writeln!(text, " {}", sample.value);
        }
    }
    text
}

fn escape(text: &str, quotes: bool) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { escaped.replace('"', "\\\"") } else { escaped }
}
