//! How many forms of texts are prepared at once.
//!
//! Owns the places: preparing one takes a thread and up to a second of a core, and goes on when its
//! request has gone. What a form is, `text::constraint` knows.

use std::sync::Arc;

use crate::limits;
use ingle_protocol::error::ErrorBody;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places.
#[derive(Debug, Clone)]
pub struct Forms {
    /// Of those that wait, and those that are prepared.
    asked: Arc<Semaphore>,
    /// Of those that are prepared.
    prepared: Arc<Semaphore>,
}

/// Leave to prepare one form, until it is dropped.
#[derive(Debug)]
pub(super) struct FormPlace(#[expect(dead_code, reason = "held")] [OwnedSemaphorePermit; 2]);

impl Default for Forms {
    fn default() -> Self {
        Self {
            asked: Arc::new(Semaphore::new(limits::QUEUED_FORMS)),
            prepared: Arc::new(Semaphore::new(limits::FORMS_AT_ONCE)),
        }
    }
}

impl Forms {
    /// Waits for a place.
    ///
    /// # Errors
    /// `OVERLOADED` when too many wait.
    pub(super) async fn place(&self) -> Result<FormPlace, ErrorBody> {
        let busy = || ErrorBody::overloaded("too many requests wait for their form to be prepared");
        let asked = Arc::clone(&self.asked).try_acquire_owned().map_err(|_| busy())?;
        let prepared = Arc::clone(&self.prepared).acquire_owned().await.map_err(|_| busy())?;
        Ok(FormPlace([asked, prepared]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use ingle_protocol::error::ErrorCode;

    #[tokio::test]
    async fn so_many_are_prepared_some_wait_and_the_rest_is_told_so() {
        let forms = Forms::default();
        let mut places = Vec::new();
        for _ in 0..limits::FORMS_AT_ONCE {
            places.push(forms.place().now_or_never().unwrap().unwrap());
        }
        let mut waiting = Vec::new();
        for _ in limits::FORMS_AT_ONCE..limits::QUEUED_FORMS {
            let mut place = Box::pin(forms.place());
            assert!(place.as_mut().now_or_never().is_none());
            waiting.push(place);
        }
        let refused = forms.place().await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Overloaded);
        places.pop();
        // Who has waited longest is next; who goes away leaves its place in the queue.
        drop(waiting.pop());
        waiting.remove(0).await.unwrap();
        drop(waiting.pop());
        assert!(forms.place().now_or_never().is_none());
    }
}
