//! End-to-end tests on the real binaries, one program so that it is linked once.

mod cli;
mod failures;
mod generate;
mod hostile;
mod launch;
mod mcp;
mod reference;
mod tidy;
