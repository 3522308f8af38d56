//! Refusals: error replies to messages that are not passed on.
//!
//! Owns the shape of error replies and which ids they go under. The wording is the error's, and the
//! edge decides how much of it goes into the message.

use serde_json::Value;

use crate::error::ErrorBody;

/// A line that is answered with an error, and the ids of its requests.
#[derive(Debug)]
pub struct Refusal {
    /// The error.
    pub error: Box<ErrorBody>,
    /// Ids as their sender wrote them; of a huge batch the first ones.
    ids: Vec<String>,
    in_batch: bool,
}

impl Refusal {
    /// A refusal under null: no id is known.
    #[must_use]
    pub fn new(error: ErrorBody) -> Self {
        Self { error: Box::new(error), ids: Vec::new(), in_batch: false }
    }

    /// The refusal of a batch, under ids as their sender wrote them.
    #[must_use]
    pub fn of_batch(error: ErrorBody, ids: Vec<String>) -> Self {
        Self { error: Box::new(error), ids, in_batch: true }
    }

    /// The refusal of one line that is longer than a frame; its id, where it is known.
    #[must_use]
    pub fn too_long(id: Option<String>) -> Self {
        Self::new(ErrorBody::frame_too_large()).under(id)
    }

    /// The same refusal under this id, if there is one.
    #[must_use]
    pub fn under(mut self, id: Option<String>) -> Self {
        self.ids.extend(id);
        self
    }

    /// The ids that it goes under; none where it goes under null.
    #[must_use]
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Whether the ids are of a batch, which gets one list of replies.
    #[must_use]
    pub fn is_batch(&self) -> bool {
        self.in_batch
    }

    /// The reply, newline included; `render` makes the error object. Under null only where no id is
    /// known, because no request waits for that.
    #[must_use]
    pub fn frame(&self, render: impl Fn(&ErrorBody) -> Value) -> Vec<u8> {
        let error = render(&self.error);
        if self.ids.is_empty() {
            return frame_of(&[error_reply("null", &error)], false);
        }
        let replies: Vec<_> = self.ids.iter().map(|id| error_reply(id, &error)).collect();
        frame_of(&replies, self.in_batch)
    }
}

/// Replies as one frame, newline included.
#[must_use]
pub fn frame_of(replies: &[String], in_batch: bool) -> Vec<u8> {
    let replies = replies.join(",");
    let frame = if in_batch { format!("[{replies}]\n") } else { format!("{replies}\n") };
    frame.into_bytes()
}

/// An error reply under an id that is JSON already.
#[must_use]
pub fn error_reply(raw_id: &str, error: &Value) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{raw_id},"error":{error}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_repeats_the_id_to_the_letter() {
        for (id, part) in [(Some("1.50"), r#""id":1.50,"#), (None, r#""id":null,"#)] {
            let refusal = Refusal::too_long(id.map(str::to_owned));
            let frame = String::from_utf8(refusal.frame(ErrorBody::to_rpc)).unwrap();
            assert!(frame.contains(part) && frame.ends_with('\n'), "{frame}");
        }
    }
}
