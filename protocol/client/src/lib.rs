//! Client of Ingle's daemon: how a program finds it, starts it and calls it.
//!
//! Owns the typed client, the launcher, the local socket, the layout of the Ingle folder, the exit
//! codes, and the resolution of the timeout settings. The daemon uses the last four as well, so
//! that both ends agree on them. Does not know the command line, models, engines, HTTP or MCP.

pub mod client;
pub mod env_file;
pub mod exit;
pub mod launch;
pub mod limits;
pub mod paths;
pub mod socket;
pub mod timeout_settings;
