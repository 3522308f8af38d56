//! HTTP over TCP: which clients are allowed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use ingle_client::exit;
use ingle_client::launch::StartReport;
use ingle_tests::Home;
use ingle_tests::http::Http;
use serde_json::{Value, json};

/// A home whose daemon listens at a free port, with further `[http]` settings.
fn home(more: &str) -> Home {
    let home = Home::with_sim(json!({}));
    let text = format!("default_model = \"sim\"\n[http]\nlisten = \"127.0.0.1:0\"\n{more}");
    home.write("config.toml", &text);
    home
}

/// The address that `ingle http` gives for the daemon.
fn address(home: &Home) -> (String, Value) {
    let shown = home.ingle(["http", "--json"]).ok().json();
    let url = shown["url"].as_str().unwrap();
    let address = url.strip_prefix("http://").and_then(|url| url.strip_suffix("/v1")).unwrap();
    (address.to_owned(), shown)
}

#[test]
fn tcp_requires_token_and_known_host_name() {
    let home = home("allowed_hosts = [\"box.local\"]\n");
    let daemon = home.daemon();
    let (address, shown) = address(&home);
    let file = home.paths().http_token();
    assert_eq!(shown["token_file"], file.display().to_string());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let token = fs::read_to_string(&file).unwrap();
    let (right, wrong) = (format!("Bearer {}", token.trim()), "Bearer ingle-0");
    let port = address.split(':').next_back().unwrap();
    let (localhost, foreign) = (format!("localhost:{port}"), format!("evil.example:{port}"));
    let other_port = "localhost:1".to_owned();
    for (path, host, token, status) in [
        ("/v1/models", &address, Some(right.as_str()), 200),
        ("/v1/models", &localhost, Some(&right), 200),
        ("/v1/models", &"box.local".to_owned(), Some(&right), 200),
        ("/v1/models", &address, None, 401),
        ("/v1/models", &address, Some(wrong), 401),
        ("/v1/models", &address, Some("Basic x"), 401),
        ("/metrics", &address, None, 401),
        ("/no/such/path", &address, None, 401),
        ("/health", &address, None, 200),
        ("/openapi.json", &address, None, 200),
        ("/v1/models", &foreign, Some(&right), 403),
        ("/health", &foreign, None, 403),
        ("/v1/models", &other_port, Some(&right), 403),
    ] {
        let mut http = Http::tcp(&address);
        let mut headers = vec![("host", host.as_str())];
        headers.extend(token.map(|token| ("authorization", token)));
        let answer = http.ask("GET", path, &headers, "").expect(status);
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401, "{answer:?}");
        assert!(answer.header("access-control-allow-origin").is_none());
    }
    // A request without `Host` is not meant for this server; an address in the request line counts.
    let mut http = Http::tcp(&address);
    http.send(b"GET /health HTTP/1.1\r\n\r\n");
    assert!(matches!(http.head().status, 400 | 403));
    let mut http = Http::tcp(&address);
    let uri = format!("http://{foreign}/health");
    let _ = http.ask("GET", &uri, &[("host", &address)], "").expect(403);
    drop(daemon);

    // The next daemon has the same token and shows it on request.
    let _daemon = home.daemon();
    let shown = home.ingle(["http", "--show-token"]).ok().stdout;
    assert!(shown.contains(&format!("OPENAI_API_KEY='{}'", token.trim())), "{shown}");
    assert!(!home.ingle(["http"]).ok().stdout.contains(token.trim()));
    let status = home.ingle(["status"]).ok().stdout;
    assert!(status.contains("http://127.0.0.1:"), "{status}");
}

#[test]
fn web_pages_need_an_allowed_origin() {
    let home = home("auth = \"none\"\ncors_origins = [\"http://localhost:3000\"]\n");
    let _daemon = home.daemon();
    let (address, _) = address(&home);
    let mut http = Http::tcp(&address);
    for (origin, is_allowed) in [("http://localhost:3000", true), ("http://evil.example", false)] {
        let headers = [("host", address.as_str()), ("origin", origin)];
        let answer = http.ask("GET", "/v1/models", &headers, "").expect(200);
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!(allowed, is_allowed.then_some(origin));
        let asked = [headers[0], headers[1], ("access-control-request-method", "POST")];
        let answer = http.ask("OPTIONS", "/v1/chat/completions", &asked, "");
        assert_eq!(answer.status, if is_allowed { 204 } else { 405 }, "{answer:?}");
    }
}

#[test]
fn open_address_without_token_is_refused_at_start() {
    let home = Home::new();
    home.write("config.toml", "[http]\nlisten = \"0.0.0.0:0\"\nauth = \"none\"\n");
    let (mut daemon, report) = home.try_daemon();
    assert_eq!(daemon.wait().unwrap().code(), Some(i32::from(exit::CONFIG)));
    let Some(StartReport::Failed { error, .. }) = report else { panic!("{report:?}") };
    assert!(error.message.contains("http.auth"), "{error:?}");
}

#[test]
fn taken_address_ends_only_daemon_started_for_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let home = Home::new();
    let demanded = home.command("ingled").args(["serve", "--http", &at]).output().unwrap();
    assert_eq!(demanded.status.code(), Some(i32::from(exit::CANNOT_CREATE)), "{demanded:?}");
    assert!(String::from_utf8_lossy(&demanded.stderr).contains(&at), "{demanded:?}");

    home.write("config.toml", &format!("[http]\nlisten = \"{at}\"\n"));
    let _daemon = home.daemon();
    let http = home.ingle(["http", "--json"]).ok().json();
    assert!(http["problem"].as_str().unwrap().contains(&at), "{http}");
    assert!(http["url"].is_null() && http["socket"].is_string(), "{http}");
    // A shell evaluates the standard output.
    let shown = home.ingle(["http", "--show-token"]);
    assert_ne!(shown.code(), i32::from(exit::OK));
    assert_eq!(shown.stdout, "");
    assert!(shown.stderr.contains(&at), "{}", shown.stderr);
}
