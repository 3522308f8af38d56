//! Exit codes of both binaries (the BSD `sysexits.h` numbers where one fits).
//!
//! Owns the table. Scripts and service managers rely on it: a number never changes its meaning.

/// Success.
pub const OK: u8 = 0;
/// The request failed.
pub const FAILED: u8 = 1;
/// The command line was wrong.
pub const USAGE: u8 = 2;
/// The daemon could not be reached or started.
pub const UNAVAILABLE: u8 = 69;
/// A bug, or the engine thread died.
pub const INTERNAL: u8 = 70;
/// A file or socket could not be created.
pub const CANNOT_CREATE: u8 = 73;
/// Another daemon already holds this Ingle folder.
pub const ALREADY_RUNNING: u8 = 75;
/// A folder or socket belongs to another user.
pub const NO_PERMISSION: u8 = 77;
/// A setting is wrong.
pub const CONFIG: u8 = 78;
/// The engine thread did not respond for `engine.stall_s`, and the daemon ended itself.
pub const ENGINE_STALLED: u8 = 80;
/// Ended by Ctrl-C.
pub const INTERRUPTED: u8 = 130;
