//! The host's MCP session: what its next daemon must be told before the session can go on.
//!
//! Owns what `initialize` settled on, and what the host has subscribed to: by
//! `resources/subscribe`, and, in revisions without `initialize`, by `subscriptions/listen`, a
//! request that is answered when it ends. Hears frames and does no I/O. Must not know how they
//! travel.

use ingle_protocol::jsonrpc::{Line, Message, RequestId};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::message_fields;

/// Answered when it ends; until then its notifications come. Not lost with a daemon: the next one
/// is asked again.
pub(crate) const LISTEN: &str = "subscriptions/listen";
const SUBSCRIBE: &str = "resources/subscribe";
const UNSUBSCRIBE: &str = "resources/unsubscribe";
const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

/// What a new daemon must be told before it can go on with the host's session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Handover {
    /// The handshake, where there was one.
    pub(crate) handshake: Option<Handshake>,
    /// What the host has subscribed to; the host has had the replies.
    pub(crate) subscriptions: Vec<Subscription>,
    /// Requests that go on, newlines included.
    pub(crate) listens: Vec<Vec<u8>>,
}

/// A handshake that is over.
#[derive(Debug, Clone)]
pub(crate) struct Handshake {
    /// The host's `initialize`, newline included.
    pub(crate) initialize: Vec<u8>,
    /// Its id.
    pub(crate) id: RequestId,
    /// The protocol version that was settled on.
    pub(crate) version: String,
    /// Whether the host has sent `notifications/initialized`.
    pub(crate) initialized: bool,
}

/// A resource that the host hears of when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// Its URI.
    pub(crate) uri: String,
    /// The parameters of the host's request, as JSON.
    params: String,
}

impl Subscription {
    /// The request anew, newline included, under an id of ours.
    pub(crate) fn request(&self, id: &str) -> String {
        let params = &self.params;
        format!(
            r#"{{"jsonrpc":"2.0","id":"{id}","method":"{SUBSCRIBE}","params":{params}}}{}"#,
            "\n"
        )
    }

    /// What tells the host to look at the resource again, newline included: changes may have been
    /// missed while nobody was asked.
    pub(crate) fn updated(&self) -> String {
        let uri = Value::from(self.uri.as_str());
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":{uri}}}}}{}"#,
            "\n"
        )
    }
}

/// What tells the host to list resources again, newline included; `meta` where it has asked for
/// that.
pub(crate) fn list_changed(meta: Option<&Value>) -> Vec<u8> {
    let mut frame = json!({ "jsonrpc": "2.0", "method": "notifications/resources/list_changed" });
    if let Some(meta) = meta {
        frame["params"] = json!({ "_meta": meta });
    }
    format!("{frame}\n").into_bytes()
}

/// What is known of the host's session.
#[derive(Debug, Default)]
pub(crate) struct McpSession {
    /// An `initialize` that the daemon has and has not answered.
    asked: Option<(RequestId, Vec<u8>)>,
    settled: Option<Handshake>,
    /// Requests about subscriptions that the daemon has and has not answered.
    wishes: Vec<(RequestId, Wish)>,
    subscriptions: Vec<Subscription>,
    listens: Vec<Listen>,
}

#[derive(Debug)]
enum Wish {
    Subscribe(Subscription),
    Unsubscribe(String),
}

#[derive(Debug)]
struct Listen {
    id: RequestId,
    /// The request, newline included.
    frame: Vec<u8>,
    /// A new daemon has been asked, and will acknowledge to a host that has heard this before.
    repeated: bool,
}

impl McpSession {
    /// The daemon has all of the host's `initialize`.
    pub(crate) fn ask(&mut self, id: RequestId, initialize: Vec<u8>) {
        self.asked = Some((id, initialize));
    }

    /// The daemon that was asked is gone.
    pub(crate) fn forget_questions(&mut self) {
        self.asked = None;
        self.wishes.clear();
    }

    /// A reply has come: the one to `initialize` says what the session settled on, and one to a
    /// subscription whether it holds.
    pub(crate) fn hear_reply(&mut self, id: &RequestId, message: &Message<'_>) {
        if let Some((_, initialize)) = self.asked.take_if(|(asked, _)| asked == id)
            && let Some(version) = message_fields::protocol_version(message)
        {
            let id = id.clone();
            self.settled = Some(Handshake { initialize, id, version, initialized: false });
        }
        let Some(place) = self.wishes.iter().position(|(asked, _)| asked == id) else { return };
        let (_, wish) = self.wishes.remove(place);
        if !message.is_success() {
            return;
        }
        let (Wish::Subscribe(Subscription { uri, .. }) | Wish::Unsubscribe(uri)) = &wish;
        self.subscriptions.retain(|held| held.uri != *uri);
        if let Wish::Subscribe(subscription) = wish
            && self.subscriptions.len() < crate::limits::SHIM_SUBSCRIPTIONS
        {
            self.subscriptions.push(subscription);
        }
    }

    /// The host has sent `notifications/initialized`.
    pub(crate) fn mark_initialized(&mut self) {
        if let Some(settled) = &mut self.settled {
            settled.initialized = true;
        }
    }

    /// Whether a line holds a request about subscriptions, which is to be heard when it is written.
    pub(crate) fn concerns(line: &Line<'_>) -> bool {
        let is_about = |message: &Message<'_>| {
            matches!(message.method(), Some(SUBSCRIBE | UNSUBSCRIBE))
                && message.as_request().is_some()
        };
        line.messages().iter().any(is_about)
    }

    /// The daemon is being sent requests about subscriptions.
    pub(crate) fn hear_wishes(&mut self, line: &Line<'_>) {
        for message in line.messages() {
            let (Some((method, id)), Some(uri)) =
                (message.as_request(), message_fields::uri(message))
            else {
                continue;
            };
            let wish = match (method, message.params()) {
                (SUBSCRIBE, Some(params)) => {
                    Wish::Subscribe(Subscription { uri, params: params.get().to_owned() })
                }
                (UNSUBSCRIBE, _) => Wish::Unsubscribe(uri),
                _ => continue,
            };
            if self.wishes.len() < crate::limits::SHIM_PENDING {
                self.wishes.push((RequestId::read(id), wish));
            }
        }
    }

    /// Whether one more `subscriptions/listen` can be followed, beside `waiting` that are not
    /// written yet.
    pub(crate) fn has_room(&self, waiting: usize) -> bool {
        self.listens.len() + waiting < crate::limits::SHIM_SUBSCRIPTIONS
    }

    /// The daemon is being sent a `subscriptions/listen`.
    pub(crate) fn begin_listen(&mut self, id: RequestId, frame: Vec<u8>) {
        self.listens.push(Listen { id, frame, repeated: false });
    }

    /// A `subscriptions/listen` has been answered, or the host wants it no more. Whether there was
    /// one under that id.
    pub(crate) fn end_listen(&mut self, id: &RequestId) -> bool {
        let before = self.listens.len();
        self.listens.retain(|listen| listen.id != *id);
        self.listens.len() < before
    }

    /// Whether anything is listened to.
    pub(crate) fn listens(&self) -> bool {
        !self.listens.is_empty()
    }

    /// Whether a notification acknowledges a `subscriptions/listen` to a host that has heard so
    /// before.
    pub(crate) fn is_known_to_host(&mut self, message: &Message<'_>) -> bool {
        let id = message_fields::subscription(message)
            .filter(|_| message.method() == Some(ACKNOWLEDGED));
        let Some(id) = id else { return false };
        let listen = self.listens.iter_mut().find(|listen| listen.id == id);
        listen.is_some_and(|listen| std::mem::take(&mut listen.repeated))
    }

    /// What a host is told in place of an acknowledgement that it knows, newlines included: to look
    /// again, because changes may have been missed while nobody was asked.
    pub(crate) fn missed(message: &Message<'_>) -> Vec<u8> {
        let Some(params) = message.params().map(RawValue::get) else { return Vec::new() };
        let meta = serde_json::from_str::<Value>(params).unwrap_or_default()["_meta"].take();
        let (lists, uris) = message_fields::acknowledged(message);
        let list = lists.then(|| list_changed(Some(&meta)));
        let resources = uris.into_iter().take(crate::limits::SHIM_SUBSCRIPTIONS).map(|uri| {
            let params = json!({ "_meta": meta, "uri": uri });
            json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": params })
        });
        let resources = resources.map(|frame| format!("{frame}\n").into_bytes());
        list.into_iter().chain(resources).flatten().collect()
    }

    /// What the next daemon must be told.
    pub(crate) fn handover(&self) -> Handover {
        Handover {
            handshake: self.settled.clone(),
            subscriptions: self.subscriptions.clone(),
            listens: self.listens.iter().map(|listen| listen.frame.clone()).collect(),
        }
    }

    /// A new daemon has been told. What came after [`Self::handover`] waits in the queue, and is
    /// not here yet.
    pub(crate) fn handed_over(&mut self) {
        self.listens.iter_mut().for_each(|listen| listen.repeated = true);
    }
}
