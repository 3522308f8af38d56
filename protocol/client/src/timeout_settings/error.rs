//! Errors of the timeout settings, with the next step for each.
//!
//! Owns their wording. Pure.

use std::fmt;
use std::path::PathBuf;

use super::names::{DerivedLimit, Setting};
use super::origin::Origin;
use super::resolved::{ConfiguredSetting, ResolvedTimeouts, SettingName};
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::{Class, Disorder, MAX_WORK_MS, MIN_WORK_MS};

/// An error of the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// A file exists and cannot be read or parsed.
    #[error("`{}`: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
    /// A line of `.env` is not an assignment.
    #[error("{origin} is not of the form NAME=VALUE: {problem}")]
    Line {
        /// The line.
        origin: Origin,
        /// The problem.
        problem: &'static str,
    },
    /// An unknown key of the table `[timeouts]`.
    #[error("{named} is not a setting")]
    UnknownKey {
        /// The key.
        named: SettingName,
    },
    /// A value that is not a number of seconds, or out of range.
    #[error("{named} is {found}; it must be a number of seconds {}", range())]
    Value {
        /// The setting.
        named: SettingName,
        /// The value that was found.
        found: String,
    },
    /// A value that is derived from others.
    #[error(
        "{named} cannot be set: the {}'s limit is always {} x timeouts.{}",
        derived.layer.as_str(),
        derived.layer.ratio(),
        derived.class.as_str()
    )]
    Derived {
        /// The name that was set.
        named: SettingName,
        /// The derived limit.
        derived: DerivedLimit,
    },
    /// Two names of one setting in one source.
    #[error(
        "{} and {} both set {}, to {} s and to {} s",
        .0.named,
        .1.named,
        .0.setting.name(),
        Seconds(.0.ms),
        Seconds(.1.ms)
    )]
    Twice(Box<ConfiguredSetting>, Box<ConfiguredSetting>),
    /// The values break a rule of the ladder.
    #[error("{}", broken_rule(*.disorder, .resolved))]
    Order {
        /// The rule that is broken.
        disorder: Disorder,
        /// All values.
        resolved: Box<ResolvedTimeouts>,
    },
}

impl SettingError {
    fn next_step(&self) -> String {
        match self {
            Self::File { .. } => "Correct that file, or remove it.".to_owned(),
            Self::Line { .. } => "Write it as NAME=VALUE, or put a # before it.".to_owned(),
            Self::UnknownKey { .. } => {
                let keys = Setting::ALL.map(Setting::key).join(", ");
                format!("The settings under [timeouts] are {keys}.")
            }
            Self::Value { .. } => ErrorCode::ConfigInvalid.remediation().to_owned(),
            Self::Derived { derived, .. } => {
                let setting = Setting::Work(derived.class);
                format!(
                    "Remove it and set {} instead (in config.toml, or as {}); `ingle timeouts` \
                     shows what follows.",
                    setting.name(),
                    setting.variable()
                )
            }
            Self::Twice(..) => "Remove one of the two.".to_owned(),
            Self::Order { disorder, resolved } => {
                let (changed, bound) = match disorder {
                    Disorder::SimpleAboveWorkflow => ("timeouts.simple", "at most"),
                    Disorder::ExpertAboveWorkflow => ("timeouts.expert_analysis", "at most"),
                    Disorder::HttpBelowWorkflow => ("timeouts.http", "at least"),
                    Disorder::Layers(class) => {
                        return format!("Set timeouts.{} to another number.", class.as_str());
                    }
                };
                let workflow = Seconds(resolved.timeouts.workflow_ms);
                format!("Set {changed} to {bound} {workflow}, or change timeouts.workflow.")
            }
        }
    }
}

impl From<&SettingError> for ErrorBody {
    fn from(error: &SettingError) -> Self {
        Self::new(ErrorCode::ConfigInvalid, error.to_string()).with_remediation(error.next_step())
    }
}

/// Milliseconds, shown as seconds with the digits they need.
#[derive(Debug, Clone, Copy)]
pub struct Seconds(pub u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, thousandths) = (self.0 / 1_000, self.0 % 1_000);
        if thousandths == 0 {
            return f.pad(&whole.to_string());
        }
        let digits = format!("{whole}.{thousandths:03}");
        f.pad(digits.trim_end_matches('0'))
    }
}

fn range() -> String {
    format!("from {} to {}", Seconds(MIN_WORK_MS), Seconds(MAX_WORK_MS))
}

/// The broken rule, with both values and their origins.
fn broken_rule(disorder: Disorder, resolved: &ResolvedTimeouts) -> String {
    let workflow = Setting::Work(Class::Workflow);
    let (setting, relation) = match disorder {
        Disorder::SimpleAboveWorkflow => (Setting::Work(Class::Simple), "must not be longer than"),
        Disorder::ExpertAboveWorkflow => {
            (Setting::Work(Class::ExpertAnalysis), "must not be longer than")
        }
        Disorder::HttpBelowWorkflow => (Setting::Http, "must not be shorter than"),
        Disorder::Layers(class) => {
            return format!("the layers of timeouts.{} would not answer in order", class.as_str());
        }
    };
    let shown = |setting: Setting| {
        let ms = setting.ms(&resolved.timeouts);
        let from = resolved.given(setting).map_or_else(
            || Origin::Default.to_string(),
            |given| match &given.named.origin {
                Origin::Environment => given.named.to_string(),
                origin => origin.to_string(),
            },
        );
        format!("{} s from {from}", Seconds(ms))
    };
    format!(
        "{} ({}) {relation} {} ({})",
        setting.name(),
        shown(setting),
        workflow.name(),
        shown(workflow)
    )
}
