//! One line of progress on standard error, for a person who waits.
//!
//! Owns how it looks. Draws nothing when standard error is no terminal.

use indicatif::{ProgressBar, ProgressStyle};
use ingle_protocol::wire::models::ProgressEvent;

use crate::output;

const TEMPLATE: &str = "{prefix} [{bar:30}] {msg}";
/// Positions of a bar whose end is not a number of bytes.
const STEPS: u64 = 1_000;

/// Progress of one thing, cleared when dropped.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Nothing is drawn before the first news.
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new(STEPS);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar }
    }

    /// Shows how far a load or pull has come.
    pub(crate) fn show(&self, event: &ProgressEvent) {
        let ProgressEvent::Progress { phase, done_bytes, total_bytes } = event;
        let done = output::bytes(*done_bytes);
        let message = match total_bytes {
            0 => done,
            total => format!("{done} / {}", output::bytes(*total)),
        };
        self.set(phase, message, done_bytes.saturating_mul(STEPS).checked_div(*total_bytes));
    }

    /// Shows a share, 0 to 1.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the share is clamped to 0 to 1 first"
    )]
    pub(crate) fn share(&self, phase: &str, share: f32) {
        let position = (share.clamp(0.0, 1.0) * STEPS as f32) as u64;
        self.set(phase, format!("{} %", position * 100 / STEPS), Some(position));
    }

    /// Shows words alone.
    pub(crate) fn say(&self, phase: &str, message: String) {
        self.set(phase, message, None);
    }

    fn set(&self, phase: &str, message: String, position: Option<u64>) {
        if self.bar.prefix() != phase {
            self.bar.set_prefix(phase.to_owned());
        }
        self.bar.set_message(message);
        self.bar.set_position(position.unwrap_or_default());
    }

    /// Takes the line away.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
