//! JSON-RPC on the local socket.
//!
//! Owns the connection loop and the dispatch of methods to the service. Knows nothing of
//! models or engines: a method is a few lines that call [`ingle_service::Service`].

pub mod connection;
pub mod dispatch;
mod jobs;
pub mod methods;
#[cfg(test)]
mod reference;
