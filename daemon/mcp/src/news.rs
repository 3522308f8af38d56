//! What a host is told unasked: that a list or a resource has changed.
//!
//! Owns who follows what, within bounds. Older revisions subscribe to single resources and hear of
//! list changes in any case; 2026-07-28 asks for all of it with one request that stays open. What
//! changes while one notification is on its way is told by the next.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::limits;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all, select_all};
use rmcp::model::{ResourceUpdatedNotificationParam, SubscriptionFilter};
use rmcp::service::{Peer, SubscriptionContext};
use rmcp::{ErrorData, RoleServer};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::resources::{Place, not_found};
use super::session::Session;
use ingle_jobs::record::JobRecord;

/// Who follows what in one session.
#[derive(Debug)]
pub(super) struct News {
    /// Subscriptions by address, each with a number of its own; dropping one ends it.
    subscriptions: Mutex<HashMap<String, (u64, DropGuard)>>,
    /// The number of the next subscription.
    next: AtomicU64,
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
            next: AtomicU64::new(0),
            listeners: Semaphore::new(limits::MCP_LISTENERS),
            tells_lists: AtomicBool::new(false),
        }
    }

    fn subscriptions(&self) -> MutexGuard<'_, HashMap<String, (u64, DropGuard)>> {
        // It is whole after every statement, so a panic elsewhere cannot have torn it.
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a subscription in the place of one of that address; its number, or `None` when there
    /// is no room.
    fn note(&self, uri: &str, guard: DropGuard) -> Option<u64> {
        let mut subscriptions = self.subscriptions();
        let is_new = !subscriptions.contains_key(uri);
        if is_new && subscriptions.len() >= limits::MCP_SUBSCRIPTIONS {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        subscriptions.insert(uri.to_owned(), (number, guard));
        Some(number)
    }

    /// Gives back the place of a subscription to what changes no more, unless it is another's by
    /// now.
    fn forget(&self, uri: &str, number: u64) {
        let mut subscriptions = self.subscriptions();
        if subscriptions.get(uri).is_some_and(|(present, _)| *present == number) {
            subscriptions.remove(uri);
        }
    }
}

/// What changes, from the moment this was made on.
enum Changes {
    /// Which models or jobs there are.
    Lists(Vec<watch::Receiver<u64>>),
    /// One job that has not ended.
    Job(watch::Receiver<JobRecord>),
    /// Nothing any more.
    Never,
}

impl Changes {
    /// Waits for a change. Whether another one can follow it; `None` when there is none.
    async fn next(&mut self) -> Option<bool> {
        match self {
            Self::Lists(seen) => {
                let changes = seen.iter_mut().map(|seen| seen.changed().boxed());
                let (changed, ..) = select_all(changes).await;
                changed.is_ok().then_some(true)
            }
            Self::Job(job) => {
                job.changed().await.ok()?;
                Some(!job.borrow_and_update().status.has_ended())
            }
            Self::Never => None,
        }
    }

    /// Tells every change, while there can be one and `tell` is heard.
    async fn follow<'a>(mut self, tell: impl Fn() -> BoxFuture<'a, bool>) {
        while let Some(goes_on) = self.next().await {
            if !tell().await || !goes_on {
                return;
            }
            tokio::time::sleep(Duration::from_millis(limits::MCP_UPDATE_MS)).await;
        }
    }
}

impl Session {
    /// Tells list changes to a host of an older revision, once however often it says that it is
    /// ready.
    pub(super) fn tell_lists(&self, peer: Peer<RoleServer>) {
        if self.news.tells_lists.swap(true, Ordering::AcqRel) {
            return;
        }
        let (ended, changes) = (self.ended.clone(), self.list_changes());
        tokio::spawn(async move {
            let tell = || {
                let peer = peer.clone();
                async move { peer.notify_resource_list_changed().await.is_ok() }.boxed()
            };
            tokio::select! {
                () = ended.cancelled() => {}
                () = changes.follow(tell) => {}
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
        let changes = self.changes(&place);
        // It must be there now; its end is told like any other change.
        self.read_place(&uri).await?;
        let ended = CancellationToken::new();
        let Some(number) = self.news.note(&uri, ended.clone().drop_guard()) else {
            let message = format!(
                "{} resources are followed already; unsubscribe from one first",
                limits::MCP_SUBSCRIPTIONS
            );
            return Err(ErrorData::invalid_request(message, None));
        };
        let (session_ended, news) = (self.ended.clone(), Arc::clone(&self.news));
        tokio::spawn(async move {
            let tell = || {
                let (peer, note) = (peer.clone(), ResourceUpdatedNotificationParam::new(&uri));
                async move { peer.notify_resource_updated(note).await.is_ok() }.boxed()
            };
            tokio::select! {
                () = session_ended.cancelled() => {}
                () = ended.cancelled() => {}
                () = changes.follow(tell) => news.forget(&uri, number),
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
            followed.push(self.list_changes().follow(tell).boxed());
        }
        for uri in accepted.resource_subscriptions.iter().flatten() {
            let Some(place) = Place::read(uri) else { continue };
            let (sink, uri) = (stream.sink(), uri.as_str());
            let tell =
                move || async move { sink.notify_resource_updated(uri).await.is_ok() }.boxed();
            followed.push(self.changes(&place).follow(tell).boxed());
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

    /// The changes of which models and jobs there are.
    fn list_changes(&self) -> Changes {
        Changes::Lists(vec![self.service.model_changes(), self.jobs.changes()])
    }

    /// The changes of one resource.
    fn changes(&self, place: &Place) -> Changes {
        match place {
            Place::Models | Place::Model(_) => {
                Changes::Lists(vec![self.service.model_changes()])
            }
            Place::Jobs => Changes::Lists(vec![self.jobs.changes()]),
            Place::Job(id) => self.jobs.follow(id).map_or(Changes::Never, Changes::Job),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_gives_its_place_back_to_others_only() {
        let news = News::new();
        let note = |uri: &str| news.note(uri, CancellationToken::new().drop_guard());
        let numbers: Vec<u64> =
            (0..limits::MCP_SUBSCRIPTIONS).filter_map(|job| note(&format!("job-{job}"))).collect();
        assert_eq!((numbers.len(), note("more")), (limits::MCP_SUBSCRIPTIONS, None));
        let again = note("job-0").unwrap();
        news.forget("job-0", numbers[0]);
        assert_eq!(note("more"), None, "job-0 is followed anew");
        news.forget("job-0", again);
        assert!(note("more").is_some());
    }
}
