//! Tests of the counts and of their text. End-to-end tests read the text of a running daemon.

use super::*;

fn text(metrics: &Metrics) -> String {
    let mut families = Families::default();
    metrics.describe(&mut families);
    text::render(&families.into_inner())
}

#[test]
fn dropped_request_counts_as_cancelled() {
    let metrics = Arc::new(Metrics::default());
    let first = metrics.begin(Edge::Rpc, "generate");
    let second = metrics.begin(Edge::Rpc, "generate");
    let third = metrics.begin(Edge::Mcp, "chat");
    assert!(text(&metrics).contains("ingle_requests_in_flight{edge=\"rpc\"} 2\n"));
    first.end(Ok(()));
    drop(second);
    third.end(Err(ErrorCode::Timeout));
    metrics.request(Edge::Rpc, UNKNOWN, Err(ErrorCode::ParseError));
    let text = text(&metrics);
    for line in [
        "ingle_requests_in_flight{edge=\"rpc\"} 0",
        "ingle_requests_total{edge=\"rpc\",method=\"generate\",outcome=\"ok\"} 1",
        "ingle_requests_total{edge=\"rpc\",method=\"generate\",outcome=\"cancelled\"} 1",
        "ingle_requests_total{edge=\"mcp\",method=\"chat\",outcome=\"timeout\"} 1",
        "ingle_requests_total{edge=\"rpc\",method=\"unknown\",outcome=\"error\"} 1",
        "ingle_errors_total{code=\"CANCELLED\",edge=\"rpc\"} 1",
        "ingle_errors_total{code=\"TIMEOUT\",edge=\"mcp\"} 1",
        "ingle_errors_total{code=\"PARSE_ERROR\",edge=\"rpc\"} 1",
        "ingle_errors_total{code=\"PARSE_ERROR\",edge=\"http\"} 0",
        "ingle_request_duration_seconds_count{edge=\"rpc\",method=\"generate\"} 2",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line}: {text}");
    }
}

#[test]
fn connection_counts_as_open_until_dropped() {
    let metrics = Arc::new(Metrics::default());
    let (first, second) = (metrics.connected(Edge::Http), metrics.connected(Edge::Http));
    drop(first);
    metrics.connection_refused(Edge::Http);
    let bug = Arc::clone(&metrics);
    let ended = std::thread::spawn(move || {
        let _connected = bug.connected(Edge::Rpc);
        assert_eq!(bug.connections(), 2);
        panic!("a bug");
    });
    assert!(ended.join().is_err());
    assert_eq!(metrics.connections(), 1);
    let text = text(&metrics);
    drop(second);
    for line in [
        "ingle_connections{edge=\"http\"} 1",
        "ingle_connections_total{edge=\"http\"} 2",
        "ingle_connections_refused_total{edge=\"http\"} 1",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line}: {text}");
    }
}

#[test]
fn text_is_escaped_and_last_bucket_has_all() {
    let mut families = Families::default();
    families.gauge("a_bytes", "with \\ and\nlines").whole([("model", "a \"b\"\\\n")], 3);
    let histogram = Histogram::new(&WAITS[..2]);
    histogram.record(Duration::from_millis(2));
    histogram.record(Duration::from_secs(2));
    families.histogram("b_seconds", "b").buckets(&[("model", "m")], &histogram.read());
    let expected = "\
# HELP a_bytes with \\\\ and\\nlines
# TYPE a_bytes gauge
a_bytes{model=\"a \\\"b\\\"\\\\\\n\"} 3
# HELP b_seconds b
# TYPE b_seconds histogram
b_seconds_bucket{model=\"m\",le=\"0.001\"} 0
b_seconds_bucket{model=\"m\",le=\"0.0025\"} 1
b_seconds_bucket{model=\"m\",le=\"+Inf\"} 2
b_seconds_sum{model=\"m\"} 2.002
b_seconds_count{model=\"m\"} 2
";
    assert_eq!(text::render(&families.into_inner()), expected);
}
