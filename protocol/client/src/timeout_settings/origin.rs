//! The place that a value comes from.

use std::fmt;
use std::path::PathBuf;

/// Where a value is from. The later ones count more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: nobody has set it.
    Default,
    /// A line of a file, from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// A variable of this process.
    Environment,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::File { path, line } => write!(f, "`{}`, line {line}", path.display()),
            Self::Environment => f.write_str("the environment"),
        }
    }
}
