//! Cancelling: every way to cancel, in every phase of a request. What the request held is freed
//! soon after, and the next request is served.

use ingle_client::client::{Call, Client};
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::generate::{Generate, GenerateParams};
use ingle_protocol::wire::status::{Phase as EnginePhase, StatusReply};
use ingle_tests::raw::Raw;
use ingle_tests::{Home, status_when};
use serde_json::{Value, json};

use crate::mcp::Host;

/// How a request is cancelled.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// `$/cancel`.
    Rpc,
    /// A client library drops the call.
    Dropped,
    /// The connection is closed.
    Closed,
    /// MCP's `notifications/cancelled`.
    Mcp,
    /// The shim in between is killed.
    KilledShim,
}

/// The phase of the request when it is cancelled.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Queued,
    Loading,
    Prefill,
    Decode,
}

/// A request in progress.
enum Asked {
    Raw(Raw),
    Call(Call<Generate>),
    Host(Host),
}

fn params(model: &str, prompt: &str) -> Value {
    json!({ "model": model, "prompt": prompt, "max_tokens": 100_000 })
}

fn ask(way: Way, home: &Home, client: &Client, model: &str, prompt: &str) -> Asked {
    match way {
        Way::Rpc | Way::Closed => {
            let raw = Raw::connect(home);
            raw.request(7, "generate", &params(model, prompt));
            Asked::Raw(raw)
        }
        Way::Dropped => {
            let params: GenerateParams = serde_json::from_value(params(model, prompt)).unwrap();
            Asked::Call(client.start::<Generate>(&params, Class::Completions).unwrap())
        }
        Way::Mcp | Way::KilledShim => {
            let mut host = Host::spawn(home);
            host.initialize();
            let params = json!({ "name": "generate", "arguments": params(model, prompt) });
            host.send(
                &json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params }),
            );
            Asked::Host(host)
        }
    }
}

/// Cancels the request. The result must outlive the check, or dropping it would be the cancel.
fn give_up(way: Way, asked: Asked) -> Option<Asked> {
    match (way, asked) {
        (Way::Rpc, Asked::Raw(mut raw)) => {
            raw.send(b"{\"jsonrpc\":\"2.0\",\"method\":\"$/cancel\",\"params\":{\"id\":7}}\n");
            assert_eq!(raw.error_code(), "CANCELLED");
            Some(Asked::Raw(raw))
        }
        (Way::Mcp, Asked::Host(mut host)) => {
            let params = json!({ "requestId": 7 });
            let cancelled = "notifications/cancelled";
            host.send(&json!({ "jsonrpc": "2.0", "method": cancelled, "params": params }));
            Some(Asked::Host(host))
        }
        (Way::KilledShim, Asked::Host(mut host)) => {
            host.child.kill().unwrap();
            None
        }
        (_, asked) => {
            match asked {
                Asked::Raw(raw) => drop(raw),
                Asked::Call(call) => drop(call),
                Asked::Host(host) => drop(host),
            }
            None
        }
    }
}

fn home() -> Home {
    let home = Home::with_sim(json!({ "reply": "ok" }));
    let long = "x".repeat(100_000);
    home.add_sim("slow", json!({ "reply": long, "token_delay_ms": 5 }));
    home.add_sim("reading", json!({ "reply": long, "prompt_token_delay_ms": 10 }));
    home.add_sim("arriving", json!({ "load_delay_ms": 600_000 }));
    home
}

fn is_reading(status: &StatusReply) -> bool {
    matches!(&status.health.phase, EnginePhase::Prefill { model } if model == "reading")
}

#[tokio::test]
async fn every_cancel_path_works_in_every_phase() {
    let home = home();
    let _daemon = home.daemon();
    let (client, others) = (home.client().await, home.client().await);
    let ways = [Way::Rpc, Way::Dropped, Way::Closed, Way::Mcp, Way::KilledShim];
    let phases = [Phase::Queued, Phase::Loading, Phase::Prefill, Phase::Decode];
    for (way, phase) in ways.iter().flat_map(|way| phases.map(|phase| (*way, phase))) {
        let mut holding = Vec::new();
        let (model, prompt) = match phase {
            Phase::Queued => {
                let params = params("slow", "hi");
                let params: GenerateParams = serde_json::from_value(params).unwrap();
                for _ in 0..5 {
                    holding.push(others.start::<Generate>(&params, Class::Completions).unwrap());
                }
                status_when(&others, |status| status.active == 5).await;
                ("slow", "hi".to_owned())
            }
            Phase::Loading => ("arriving", "hi".to_owned()),
            Phase::Prefill => ("reading", "x".repeat(6_000)),
            Phase::Decode => ("slow", "hi".to_owned()),
        };
        let asked = ask(way, &home, &client, model, &prompt);
        let there = status_when(&others, |status| match phase {
            Phase::Queued => status.queued == 1,
            Phase::Loading => matches!(status.health.phase, EnginePhase::Loading { .. }),
            Phase::Prefill => status.active == 1 && is_reading(status),
            Phase::Decode => status.active == 1,
        });
        there.await;
        let kept = give_up(way, asked);
        let running = holding.len();
        status_when(&others, |status| {
            let is_loading = matches!(status.health.phase, EnginePhase::Loading { .. });
            status.queued == 0 && status.active == running && !is_loading
        })
        .await;
        drop(holding);
        status_when(&others, |status| status.active == 0).await;
        let served = home.ingle(["complete", "hi"]).ok().stdout;
        assert_eq!(served.trim(), "ok", "{way:?} {phase:?}");
        drop(kept);
    }
}
