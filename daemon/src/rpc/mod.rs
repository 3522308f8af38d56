//! JSON-RPC on the local socket.
//!
//! Owns listening, the connection loop and the dispatch of methods to the service. Knows nothing of
//! models or engines: a method is a few lines that call [`crate::service::Service`].

pub mod connection;
pub mod dispatch;
mod jobs;
pub mod listener;
pub mod methods;
