//! Serde types of every method, one file per method family.
//!
//! Owns names and schemas only. A method is a type that implements [`Method`]: the daemon and the
//! client take name, parameters and result from it, so that they cannot disagree.

pub mod chat;
pub mod class;
pub mod embed;
pub mod extensions;
pub mod generate;
pub mod hello;
pub mod jobs;
pub mod metrics;
pub mod models;
pub mod status;
pub mod tokens;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::timeouts::Class;

/// One RPC method.
pub trait Method {
    /// Its name on the wire.
    const NAME: &'static str;
    /// The class whose ladder bounds a call, unless the parameters decide.
    const CLASS: Class = Class::Simple;
    /// W of the method itself, in milliseconds, where no class fits it.
    const WORK_MS: Option<u64> = None;
    /// Parameters: a JSON object.
    type Params: Serialize + DeserializeOwned + Send + 'static;
    /// Result.
    type Output: Serialize + DeserializeOwned + Clone + Send + 'static;
}

/// Parameters of a method that takes none: `{}` (or nothing at all).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NoParams {}
