//! JSON-RPC 2.0: the one reader of message envelopes.
//!
//! Owns the id of a request, the envelope of a message, the bound on batches, the replies that
//! refuse a message, and the search for an id in a message that cannot be read. Does not know
//! methods, parameters or results, nor how a message travels.
//!
//! A reader of lines calls [`Line::parse`], which refuses what no receiver can use. A receiver that
//! answers each broken element by itself calls [`split`] and [`Message::parse`].

mod batch;
mod id;
mod message;
mod refusal;
pub mod scan;

pub use batch::{Elements, Line, split};
pub use id::RequestId;
pub use message::{Message, UnreadableMessage};
pub use refusal::{Refusal, error_reply, frame_of};
