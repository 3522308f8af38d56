//! Resource subscriptions and list-changed notifications.
//!
//! Owns the subscriptions of one host, within bounds. Older revisions of MCP subscribe to single
//! resources and are always notified of list changes; revision 2026-07-28 subscribes to both with
//! one request that stays open. A change during a notification is part of the next one.

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

use super::context::HostContext;
use super::resources::{self, ResourceUri, not_found};
use ingle_jobs::record::JobRecord;

/// The subscriptions of one host.
#[derive(Debug)]
pub(super) struct Subscriptions {
    /// Subscriptions by URI, each with a number of its own. Dropping one ends its task.
    by_uri: Arc<ByUri>,
    /// A permit per notification stream.
    streams: Semaphore,
    /// Whether list changes are being notified.
    notifies_lists: AtomicBool,
}

/// Single subscriptions by their URI.
#[derive(Debug, Default)]
struct ByUri {
    guards: Mutex<HashMap<String, (u64, DropGuard)>>,
    /// The number of the next subscription.
    next: AtomicU64,
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self {
            by_uri: Arc::default(),
            streams: Semaphore::new(limits::MCP_LISTENERS),
            notifies_lists: AtomicBool::new(false),
        }
    }
}

impl ByUri {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (u64, DropGuard)>> {
        // The map is consistent after every statement, so a poisoned lock is safe to use.
        self.guards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a subscription, which replaces one of the same URI. Returns its number, or `None` at
    /// the limit.
    fn add(&self, uri: &str, guard: DropGuard) -> Option<u64> {
        let mut guards = self.lock();
        let is_new = !guards.contains_key(uri);
        if is_new && guards.len() >= limits::MCP_SUBSCRIPTIONS {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        guards.insert(uri.to_owned(), (number, guard));
        Some(number)
    }

    /// Removes a subscription whose resource no longer changes, unless it was replaced.
    fn remove(&self, uri: &str, number: u64) {
        let mut guards = self.lock();
        if guards.get(uri).is_some_and(|(present, _)| *present == number) {
            guards.remove(uri);
        }
    }
}

/// Changes to wait for, from the moment of its creation.
enum Changes {
    /// The lists of models or jobs.
    Lists(Vec<watch::Receiver<u64>>),
    /// A job that has not ended.
    Job(watch::Receiver<JobRecord>),
    /// No further changes.
    Never,
}

impl Changes {
    /// Waits for a change, and returns whether another can follow; `None` without further changes.
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

    /// Calls `notify` for every change, until it fails or no further change can come.
    async fn follow<'a>(mut self, notify: impl Fn() -> BoxFuture<'a, bool>) {
        while let Some(can_change_again) = self.next().await {
            if !notify().await || !can_change_again {
                return;
            }
            tokio::time::sleep(Duration::from_millis(limits::MCP_UPDATE_MS)).await;
        }
    }
}

impl Subscriptions {
    /// Notifies a host of an older revision of list changes. Repeated calls have no effect.
    pub(super) fn notify_list_changes(&self, host: &HostContext, peer: Peer<RoleServer>) {
        if self.notifies_lists.swap(true, Ordering::AcqRel) {
            return;
        }
        let (input_ended, changes) = (host.input_ended.clone(), list_changes(host));
        tokio::spawn(async move {
            let notify = || {
                let peer = peer.clone();
                async move { peer.notify_resource_list_changed().await.is_ok() }.boxed()
            };
            tokio::select! {
                () = input_ended.cancelled() => {}
                () = changes.follow(notify) => {}
            }
        });
    }

    /// Subscribes a host of an older revision to one resource.
    ///
    /// # Errors
    /// An unknown resource, and the limit of subscriptions.
    pub(super) async fn subscribe(
        &self,
        host: &HostContext,
        uri: String,
        peer: Peer<RoleServer>,
    ) -> Result<(), ErrorData> {
        let resource = ResourceUri::parse(&uri).ok_or_else(|| not_found(&uri))?;
        let changes = changes_of(host, &resource);
        // The resource must exist now. Its removal is a change like any other.
        resources::read(host, &uri).await?;
        let ended = CancellationToken::new();
        let Some(number) = self.by_uri.add(&uri, ended.clone().drop_guard()) else {
            let message = format!(
                "the host has {} subscriptions, which is the limit; unsubscribe from one first",
                limits::MCP_SUBSCRIPTIONS
            );
            return Err(ErrorData::invalid_request(message, None));
        };
        let (input_ended, by_uri) = (host.input_ended.clone(), Arc::clone(&self.by_uri));
        tokio::spawn(async move {
            let notify = || {
                let (peer, note) = (peer.clone(), ResourceUpdatedNotificationParam::new(&uri));
                async move { peer.notify_resource_updated(note).await.is_ok() }.boxed()
            };
            tokio::select! {
                () = input_ended.cancelled() => {}
                () = ended.cancelled() => {}
                () = changes.follow(notify) => by_uri.remove(&uri, number),
            }
        });
        Ok(())
    }

    /// Ends the subscription to a resource. Without a subscription, it has no effect.
    pub(super) fn unsubscribe(&self, uri: &str) {
        self.by_uri.lock().remove(uri);
    }

    /// Notifies a host of revision 2026-07-28 of the changes it requested, until it cancels the
    /// request.
    ///
    /// # Errors
    /// The limit of such streams.
    pub(super) async fn listen(
        &self,
        host: &HostContext,
        stream: SubscriptionContext,
    ) -> Result<(), ErrorData> {
        let Ok(_permit) = self.streams.try_acquire() else {
            let message = format!(
                "the host has {} notification streams, which is the limit; cancel one first",
                limits::MCP_LISTENERS
            );
            return Err(ErrorData::invalid_request(message, None));
        };
        let accepted = stream.accepted();
        let mut followed: Vec<BoxFuture<'_, ()>> = Vec::new();
        if accepted.resources_list_changed == Some(true) {
            let sink = stream.sink();
            let notify =
                move || async move { sink.notify_resource_list_changed().await.is_ok() }.boxed();
            followed.push(list_changes(host).follow(notify).boxed());
        }
        for uri in accepted.resource_subscriptions.iter().flatten() {
            let Some(resource) = ResourceUri::parse(uri) else { continue };
            let (sink, uri) = (stream.sink(), uri.as_str());
            let notify =
                move || async move { sink.notify_resource_updated(uri).await.is_ok() }.boxed();
            followed.push(changes_of(host, &resource).follow(notify).boxed());
        }
        let all = async {
            join_all(followed).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stream.cancelled() => {}
            () = host.input_ended.cancelled() => {}
            () = all => {}
        }
        Ok(())
    }
}

/// Changes of the lists of models and jobs.
fn list_changes(host: &HostContext) -> Changes {
    Changes::Lists(vec![host.service.model_changes(), host.jobs.changes()])
}

/// Changes of one resource.
fn changes_of(host: &HostContext, resource: &ResourceUri) -> Changes {
    match resource {
        ResourceUri::Models | ResourceUri::Model(_) => {
            Changes::Lists(vec![host.service.model_changes()])
        }
        ResourceUri::Jobs => Changes::Lists(vec![host.jobs.changes()]),
        ResourceUri::Job(id) => host.jobs.follow(id).map_or(Changes::Never, Changes::Job),
    }
}

/// The part of a filter that this server supports.
pub(super) fn accepted(requested: &SubscriptionFilter) -> SubscriptionFilter {
    let uris = requested.resource_subscriptions.iter().flatten();
    let ours: Vec<String> = uris
        .filter(|uri| ResourceUri::parse(uri).is_some())
        .take(limits::MCP_SUBSCRIPTIONS)
        .cloned()
        .collect();
    let mut filter = SubscriptionFilter::builder().resources_list_changed().build();
    filter.resource_subscriptions = (!ours.is_empty()).then_some(ours);
    filter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_subscription_frees_its_place_once() {
        let by_uri = ByUri::default();
        let add = |uri: &str| by_uri.add(uri, CancellationToken::new().drop_guard());
        let numbers: Vec<u64> =
            (0..limits::MCP_SUBSCRIPTIONS).filter_map(|job| add(&format!("job-{job}"))).collect();
        assert_eq!((numbers.len(), add("more")), (limits::MCP_SUBSCRIPTIONS, None));
        let again = add("job-0").unwrap();
        by_uri.remove("job-0", numbers[0]);
        assert_eq!(add("more"), None, "job-0 has a new subscription");
        by_uri.remove("job-0", again);
        assert!(add("more").is_some());
    }
}
