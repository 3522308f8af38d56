//! Models on disk: what may be fetched, what is here, and how it gets here.
//!
//! Owns the catalogue, the layout of the models folder and every file in it. Knows nothing of
//! engines, connections or what a file of weights holds beyond its first bytes: whether a model can
//! be run is for the engine that loads it to say.

pub mod catalog;
mod error;
mod fetch;
mod folder;
pub mod hub;
mod library;
pub mod library_paths;
pub mod limits;
mod names;
pub mod pull;
mod quant;
mod staging;
pub mod store;

pub use catalog::{CATALOG, CatalogEntry, DEFAULT_MODEL};
pub use error::{PullError, StoreError};
pub use folder::{Manifest, ModelFormat};
pub use library::{Library, LibraryKind};
pub use pull::{PullOutcome, PullPhase, PullProgress, PullSetup, Puller};
pub use store::{ModelSource, ModelStore, StoreEntry};
