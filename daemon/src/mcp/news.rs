//! What a host is told unasked: that a list or a resource has changed.
//!
//! Owns who follows what, within bounds. Older revisions subscribe to single resources and hear of
//! list changes in any case; 2026-07-28 asks for all of it with one request that stays open. What
//! changes while one notification is on its way is told by the next.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use ingle_protocol::limits;
use rmcp::model::{ResourceUpdatedNotificationParam, SubscriptionFilter};
use rmcp::service::{Peer, SubscriptionContext};
use rmcp::{ErrorData, RoleServer};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::resources::{Place, not_found};
use super::session::Session;

/// Who follows what in one session.
#[derive(Debug)]
pub(super) struct News {
    /// Subscriptions by address; dropping one ends it.
    subscriptions: Mutex<HashMap<String, DropGuard>>,
    /// Streams of changes that may still be opened.
    listeners: Semaphore,
    /// Whether list changes are told.
    tells_lists: AtomicBool,
}

impl News {
    /// Nobody follows anything.
    pub(super) fn new() -> Self {
        Self {
            subscriptions: Mutex::default(),
            listeners: Semaphore::new(limits::MCP_LISTENERS),
            tells_lists: AtomicBool::new(false),
        }
    }

    fn subscriptions(&self) -> MutexGuard<'_, HashMap<String, DropGuard>> {
        // It is whole after every statement, so a panic elsewhere cannot have torn it.
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sees changes until there can be none any more.
struct Changes {
    seen: Vec<watch::Receiver<u64>>,
}

impl Changes {
    /// Waits for a change of any of what is seen; `false` when there will be none.
    async fn next(&mut self) -> bool {
        if self.seen.is_empty() {
            return false;
        }
        let changes = self.seen.iter_mut().map(|seen| seen.changed().boxed());
        let (changed, ..) = futures_util::future::select_all(changes).await;
        changed.is_ok()
    }
}

impl Session {
    /// Tells list changes to a host of an older revision, once however often it says that it is
    /// ready.
    pub(super) fn tell_lists(&self, peer: Peer<RoleServer>) {
        if self.news.tells_lists.swap(true, Ordering::AcqRel) {
            return;
        }
        let session = self.clone();
        tokio::spawn(async move {
            let tell = || {
                let peer = peer.clone();
                async move { peer.notify_resource_list_changed().await.is_ok() }.boxed()
            };
            tokio::select! {
                () = session.ended.cancelled() => {}
                () = session.follow_lists(tell) => {}
            }
        });
    }

    /// Follows one resource for a host of an older revision.
    ///
    /// # Errors
    /// When there is no such resource, or the host follows too many.
    pub(super) async fn subscribe_to(
        &self,
        uri: String,
        peer: Peer<RoleServer>,
    ) -> Result<(), ErrorData> {
        let place = Place::read(&uri).ok_or_else(|| not_found(&uri))?;
        // It must be there now; its end is told like any other change.
        self.read_place(&uri).await?;
        let ended = CancellationToken::new();
        {
            let mut subscriptions = self.news.subscriptions();
            let is_new = !subscriptions.contains_key(&uri);
            if is_new && subscriptions.len() >= limits::MCP_SUBSCRIPTIONS {
                let message = format!(
                    "{} resources are followed already; unsubscribe from one first",
                    limits::MCP_SUBSCRIPTIONS
                );
                return Err(ErrorData::invalid_request(message, None));
            }
            subscriptions.insert(uri.clone(), ended.clone().drop_guard());
        }
        let session = self.clone();
        tokio::spawn(async move {
            let tell = || {
                let (peer, note) = (peer.clone(), ResourceUpdatedNotificationParam::new(&uri));
                async move { peer.notify_resource_updated(note).await.is_ok() }.boxed()
            };
            tokio::select! {
                () = session.ended.cancelled() => {}
                () = ended.cancelled() => {}
                () = session.follow(&place, tell) => {}
            }
        });
        Ok(())
    }

    /// Follows a resource no more; one that was not followed is no error.
    pub(super) fn unsubscribe_from(&self, uri: &str) {
        self.news.subscriptions().remove(uri);
    }

    /// Tells what a host of revision 2026-07-28 has asked for, until it cancels its request.
    ///
    /// # Errors
    /// When the host has too many such requests open.
    pub(super) async fn tell_all(&self, stream: SubscriptionContext) -> Result<(), ErrorData> {
        let Ok(_room) = self.news.listeners.try_acquire() else {
            let message = format!(
                "{} streams of changes are open already; cancel one first",
                limits::MCP_LISTENERS
            );
            return Err(ErrorData::invalid_request(message, None));
        };
        let accepted = stream.accepted();
        let mut followed: Vec<BoxFuture<'_, ()>> = Vec::new();
        if accepted.resources_list_changed == Some(true) {
            let sink = stream.sink();
            let tell =
                move || async move { sink.notify_resource_list_changed().await.is_ok() }.boxed();
            followed.push(self.follow_lists(tell).boxed());
        }
        for uri in accepted.resource_subscriptions.iter().flatten() {
            let Some(place) = Place::read(uri) else { continue };
            let (sink, uri) = (stream.sink(), uri.as_str());
            let tell =
                move || async move { sink.notify_resource_updated(uri).await.is_ok() }.boxed();
            followed.push(async move { self.follow(&place, tell).await }.boxed());
        }
        let all = async {
            join_all(followed).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stream.cancelled() => {}
            () = self.ended.cancelled() => {}
            () = all => {}
        }
        Ok(())
    }

    /// Tells every change of which models and jobs there are, while `tell` is heard.
    async fn follow_lists<'a>(&self, tell: impl Fn() -> BoxFuture<'a, bool>) {
        let seen = vec![self.service.engine.model_changes(), self.jobs.changes()];
        follow(Changes { seen }, tell).await;
    }

    /// Tells every change of a resource, while there can be one and `tell` is heard.
    async fn follow<'a>(&self, place: &Place, tell: impl Fn() -> BoxFuture<'a, bool>) {
        let seen = match place {
            Place::Models | Place::Model(_) => self.service.engine.model_changes(),
            Place::Jobs => self.jobs.changes(),
            Place::Job(id) => return self.follow_job(id, tell).await,
        };
        follow(Changes { seen: vec![seen] }, tell).await;
    }

    async fn follow_job<'a>(&self, id: &str, tell: impl Fn() -> BoxFuture<'a, bool>) {
        // A job that has ended changes no more.
        let Some(mut job) = self.jobs.follow(id) else { return };
        while job.changed().await.is_ok() {
            let has_ended = job.borrow_and_update().status.has_ended();
            if !tell().await || has_ended {
                return;
            }
            tokio::time::sleep(Duration::from_millis(limits::MCP_UPDATE_MS)).await;
        }
    }
}

async fn follow<'a>(mut changes: Changes, tell: impl Fn() -> BoxFuture<'a, bool>) {
    while changes.next().await && tell().await {
        tokio::time::sleep(Duration::from_millis(limits::MCP_UPDATE_MS)).await;
    }
}

/// The part of a filter that this server can tell.
pub(super) fn accepted(requested: &SubscriptionFilter) -> SubscriptionFilter {
    let uris = requested.resource_subscriptions.iter().flatten();
    let ours: Vec<String> = uris
        .filter(|uri| Place::read(uri).is_some())
        .take(limits::MCP_SUBSCRIPTIONS)
        .cloned()
        .collect();
    let mut filter = SubscriptionFilter::builder().resources_list_changed().build();
    filter.resource_subscriptions = (!ours.is_empty()).then_some(ours);
    filter
}

/// Shared by the clones of one session.
pub(super) type SharedNews = Arc<News>;
