//! Jobs: work that outlives the connection that started it.
pub mod clock;
pub mod record;
pub mod state;
pub mod store;
