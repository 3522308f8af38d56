//! MCP session of the host: the state that is repeated to its next daemon.
//!
//! Owns the handshake, and the host's subscriptions: by `resources/subscribe` and, in revisions
//! without `initialize`, by `subscriptions/listen`, a request that is answered when it ends. Reads
//! frames and does no I/O. Does not know how they travel.

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

/// The state that a new daemon needs to continue the host's session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Handover {
    /// The handshake, where there was one.
    pub(crate) handshake: Option<Handshake>,
    /// The host's subscriptions; the host has the replies.
    pub(crate) subscriptions: Vec<Subscription>,
    /// Open `subscriptions/listen` requests, newlines included.
    pub(crate) listens: Vec<Vec<u8>>,
}

/// A completed handshake.
#[derive(Debug, Clone)]
pub(crate) struct Handshake {
    /// The host's `initialize`, newline included.
    pub(crate) initialize: Vec<u8>,
    /// Its id.
    pub(crate) id: RequestId,
    /// The agreed protocol version.
    pub(crate) version: String,
    /// Whether the host has sent `notifications/initialized`.
    pub(crate) initialized: bool,
}

/// A resource whose changes the host is notified of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// Its URI.
    pub(crate) uri: String,
    /// The parameters of the host's request, as JSON.
    params: String,
}

impl Subscription {
    /// The repeated request, newline included, under an id of ours.
    pub(crate) fn request(&self, id: &str) -> String {
        let params = &self.params;
        format!(
            r#"{{"jsonrpc":"2.0","id":"{id}","method":"{SUBSCRIBE}","params":{params}}}{}"#,
            "\n"
        )
    }

    /// The notification that makes the host read the resource again, newline included: it may have
    /// missed changes while no daemon was connected.
    pub(crate) fn updated(&self) -> String {
        let uri = Value::from(self.uri.as_str());
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":{uri}}}}}{}"#,
            "\n"
        )
    }
}

/// The notification that makes the host list resources again, newline included; with `meta` for a
/// `subscriptions/listen`.
pub(crate) fn list_changed(meta: Option<&Value>) -> Vec<u8> {
    let mut frame = json!({ "jsonrpc": "2.0", "method": "notifications/resources/list_changed" });
    if let Some(meta) = meta {
        frame["params"] = json!({ "_meta": meta });
    }
    format!("{frame}\n").into_bytes()
}

/// The state of the host's session.
#[derive(Debug, Default)]
pub(crate) struct McpSession {
    /// An `initialize` that the daemon has not answered.
    unanswered_initialize: Option<(RequestId, Vec<u8>)>,
    handshake: Option<Handshake>,
    /// Changes of subscriptions that the daemon has not answered.
    unanswered_changes: Vec<(RequestId, SubscriptionChange)>,
    subscriptions: Vec<Subscription>,
    listens: Vec<Listen>,
}

#[derive(Debug)]
enum SubscriptionChange {
    Subscribe(Subscription),
    Unsubscribe(String),
}

#[derive(Debug)]
struct Listen {
    id: RequestId,
    /// The request, newline included.
    frame: Vec<u8>,
    /// Whether a new daemon was asked: it acknowledges to a host that has an acknowledgement.
    repeated: bool,
}

impl McpSession {
    /// Notes that the daemon has the whole `initialize` of the host.
    pub(crate) fn note_initialize(&mut self, id: RequestId, initialize: Vec<u8>) {
        self.unanswered_initialize = Some((id, initialize));
    }

    /// Forgets unanswered requests: their daemon has ended.
    pub(crate) fn forget_unanswered(&mut self) {
        self.unanswered_initialize = None;
        self.unanswered_changes.clear();
    }

    /// Notes a reply: the one to `initialize` completes the handshake, and one to a subscription
    /// shows whether it is accepted.
    pub(crate) fn note_reply(&mut self, id: &RequestId, message: &Message<'_>) {
        if let Some((_, initialize)) =
            self.unanswered_initialize.take_if(|(request, _)| request == id)
            && let Some(version) = message_fields::protocol_version(message)
        {
            let id = id.clone();
            self.handshake = Some(Handshake { initialize, id, version, initialized: false });
        }
        let Some(place) = self.unanswered_changes.iter().position(|(request, _)| request == id)
        else {
            return;
        };
        let (_, wish) = self.unanswered_changes.remove(place);
        if !message.is_success() {
            return;
        }
        let (SubscriptionChange::Subscribe(Subscription { uri, .. })
        | SubscriptionChange::Unsubscribe(uri)) = &wish;
        self.subscriptions.retain(|held| held.uri != *uri);
        if let SubscriptionChange::Subscribe(subscription) = wish
            && self.subscriptions.len() < crate::limits::SHIM_SUBSCRIPTIONS
        {
            self.subscriptions.push(subscription);
        }
    }

    /// Notes that the host has sent `notifications/initialized`.
    pub(crate) fn mark_initialized(&mut self) {
        if let Some(handshake) = &mut self.handshake {
            handshake.initialized = true;
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

    /// Notes requests about subscriptions that are being written.
    pub(crate) fn note_changes(&mut self, line: &Line<'_>) {
        for message in line.messages() {
            let (Some((method, id)), Some(uri)) =
                (message.as_request(), message_fields::uri(message))
            else {
                continue;
            };
            let wish = match (method, message.params()) {
                (SUBSCRIBE, Some(params)) => SubscriptionChange::Subscribe(Subscription {
                    uri,
                    params: params.get().to_owned(),
                }),
                (UNSUBSCRIBE, _) => SubscriptionChange::Unsubscribe(uri),
                _ => continue,
            };
            if self.unanswered_changes.len() < crate::limits::SHIM_PENDING {
                self.unanswered_changes.push((RequestId::read(id), wish));
            }
        }
    }

    /// Whether one more `subscriptions/listen` is allowed, in addition to `waiting` ones that are
    /// not written yet.
    pub(crate) fn has_room(&self, waiting: usize) -> bool {
        self.listens.len() + waiting < crate::limits::SHIM_SUBSCRIPTIONS
    }

    /// Notes a `subscriptions/listen` that is being written.
    pub(crate) fn begin_listen(&mut self, id: RequestId, frame: Vec<u8>) {
        self.listens.push(Listen { id, frame, repeated: false });
    }

    /// Ends a `subscriptions/listen` that was answered or cancelled. Returns whether there was one
    /// of this id.
    pub(crate) fn end_listen(&mut self, id: &RequestId) -> bool {
        let before = self.listens.len();
        self.listens.retain(|listen| listen.id != *id);
        self.listens.len() < before
    }

    /// Whether a `subscriptions/listen` is open.
    pub(crate) fn listens(&self) -> bool {
        !self.listens.is_empty()
    }

    /// Whether a notification acknowledges a `subscriptions/listen` to a host that has an earlier
    /// acknowledgement.
    pub(crate) fn is_known_to_host(&mut self, message: &Message<'_>) -> bool {
        let id = message_fields::subscription(message)
            .filter(|_| message.method() == Some(ACKNOWLEDGED));
        let Some(id) = id else { return false };
        let listen = self.listens.iter_mut().find(|listen| listen.id == id);
        listen.is_some_and(|listen| std::mem::take(&mut listen.repeated))
    }

    /// The notifications in place of a repeated acknowledgement, newlines included: they make the
    /// host read again, because it may have missed changes while no daemon was connected.
    pub(crate) fn catch_up_frames(message: &Message<'_>) -> Vec<u8> {
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

    /// The state for the next daemon.
    pub(crate) fn handover(&self) -> Handover {
        Handover {
            handshake: self.handshake.clone(),
            subscriptions: self.subscriptions.clone(),
            listens: self.listens.iter().map(|listen| listen.frame.clone()).collect(),
        }
    }

    /// Notes that a new daemon has the state. Requests after [`Self::handover`] wait in the queue,
    /// and are not here yet.
    pub(crate) fn handed_over(&mut self) {
        self.listens.iter_mut().for_each(|listen| listen.repeated = true);
    }
}
