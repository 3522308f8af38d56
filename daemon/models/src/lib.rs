//! Models on disk: names, catalogue, libraries and downloads.
//!
//! Owns the catalogue, the layout of the models folder and every file in it. Does not know engines,
//! connections, or the contents of a weights file beyond its first bytes: the engine that loads a model
//! decides whether it can run it.
//!
//! Lookup: [`store`] finds a model by name or path (`names`), in the models folder (`folder`) and in
//! the libraries of other programs (`library`, [`library_paths`]). Download: [`pull`] shares one pull
//! among its callers, `pull/plan` decides, `pull/work` runs the steps, `pip` and [`hub`] download,
//! `staging` does the file work.

pub mod catalog;
mod error;
mod folder;
pub mod hub;
mod library;
pub mod library_paths;
pub mod limits;
mod names;
mod pip;
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
