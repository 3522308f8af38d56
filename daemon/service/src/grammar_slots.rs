//! Limits concurrent grammar compilation.
//!
//! Owns the permits: one compilation takes a thread and up to a second of a core, and runs on when
//! its request has gone. Does not know grammars; `text::constraint` does.

use std::sync::Arc;

use crate::limits;
use ingle_protocol::error::ErrorBody;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The permits of grammar compilation.
#[derive(Debug, Clone)]
pub struct GrammarSlots {
    /// Permits of requests that wait or compile.
    queued: Arc<Semaphore>,
    /// Permits of requests that compile.
    compiling: Arc<Semaphore>,
}

/// A permit to compile one grammar, until it is dropped.
#[derive(Debug)]
pub(super) struct GrammarPermit(#[expect(dead_code, reason = "held")] [OwnedSemaphorePermit; 2]);

impl Default for GrammarSlots {
    fn default() -> Self {
        Self {
            queued: Arc::new(Semaphore::new(limits::QUEUED_GRAMMARS)),
            compiling: Arc::new(Semaphore::new(limits::CONCURRENT_GRAMMARS)),
        }
    }
}

impl GrammarSlots {
    /// Waits for a permit.
    ///
    /// # Errors
    /// `OVERLOADED` when too many requests wait.
    pub(super) async fn permit(&self) -> Result<GrammarPermit, ErrorBody> {
        let busy = || ErrorBody::overloaded("too many requests wait for grammar compilation");
        let queued = Arc::clone(&self.queued).try_acquire_owned().map_err(|_| busy())?;
        let compiling = Arc::clone(&self.compiling).acquire_owned().await.map_err(|_| busy())?;
        Ok(GrammarPermit([queued, compiling]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use ingle_protocol::error::ErrorCode;

    #[tokio::test]
    async fn excess_compilations_wait_and_then_are_refused() {
        let slots = GrammarSlots::default();
        let mut permits = Vec::new();
        for _ in 0..limits::CONCURRENT_GRAMMARS {
            permits.push(slots.permit().now_or_never().unwrap().unwrap());
        }
        let mut waiting = Vec::new();
        for _ in limits::CONCURRENT_GRAMMARS..limits::QUEUED_GRAMMARS {
            let mut permit = Box::pin(slots.permit());
            assert!(permit.as_mut().now_or_never().is_none());
            waiting.push(permit);
        }
        let refused = slots.permit().await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Overloaded);
        permits.pop();
        // The longest waiter is next; a waiter that goes frees its place in the queue.
        drop(waiting.pop());
        waiting.remove(0).await.unwrap();
        drop(waiting.pop());
        assert!(slots.permit().now_or_never().is_none());
    }
}
