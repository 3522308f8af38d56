//! Exit codes of both binaries (the BSD `sysexits.h` numbers where one fits).
//!
//! Owns the table. Scripts and service managers rely on these: a number never changes its meaning.

/// All went well.
pub const OK: u8 = 0;
/// The request was understood and failed.
pub const FAILED: u8 = 1;
/// The command line was wrong.
pub const USAGE: u8 = 2;
/// The daemon could not be reached or started.
pub const UNAVAILABLE: u8 = 69;
/// A bug, or the engine thread died.
pub const INTERNAL: u8 = 70;
/// A file or socket could not be made.
pub const CANNOT_CREATE: u8 = 73;
/// Another daemon already holds this Ingle folder.
pub const ALREADY_RUNNING: u8 = 75;
/// A folder or socket belongs to somebody else.
pub const NO_PERMISSION: u8 = 77;
/// A setting is wrong.
pub const CONFIG: u8 = 78;
/// The engine thread stood still for longer than `engine.stall_s`, and the daemon ended itself.
pub const ENGINE_STALLED: u8 = 80;
/// Ended by Ctrl-C.
pub const INTERRUPTED: u8 = 130;
