//! JSON-RPC on the local socket.
//!
//! Owns the connection loop, the method table and the dispatch of calls. Does not know models or
//! engines: a method is a few lines that call [`ingle_service::Service`].

mod call;
pub mod connection;
pub mod dispatch;
mod jobs;
mod methods;
#[cfg(test)]
mod reference;
pub mod register;
