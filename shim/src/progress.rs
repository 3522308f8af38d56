//! Progress line on standard error.
//!
//! Owns its layout. Draws nothing when standard error is not a terminal. It is short on purpose:
//! crates with more features need more memory than the rest of the shim's start.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use ingle_protocol::wire::models::ProgressEvent;

use crate::output;

/// Columns of the bar.
const BAR: usize = 30;
/// Columns of the whole line: terminals in use are at least as wide.
const LINE: usize = 78;
/// Minimum time between two drawings: faster changes cannot be read.
const PAUSE: Duration = Duration::from_millis(50);
/// Erases the line.
const ERASE: &str = "\r\x1b[2K";

/// Progress of one operation; the line is erased when this is dropped.
pub(crate) struct Progress {
    is_watched: bool,
    drawn_at: Option<Instant>,
}

impl Progress {
    /// A progress line that is empty until the first update.
    pub(crate) fn new() -> Self {
        Self { is_watched: io::stderr().is_terminal(), drawn_at: None }
    }

    /// Shows the progress of a load or pull.
    pub(crate) fn show(&mut self, event: &ProgressEvent) {
        let ProgressEvent::Progress { phase, done_bytes: done, total_bytes: total } = event;
        let message = match total {
            0 => output::bytes(*done),
            total => format!("{} / {}", output::bytes(*done), output::bytes(*total)),
        };
        self.draw(phase, (*total > 0).then_some((*done, *total)), &message);
    }

    /// Shows a share, 0 to 1.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the share is clamped to 0 to 1 first"
    )]
    pub(crate) fn share(&mut self, phase: &str, share: f32) {
        let percent = (share.clamp(0.0, 1.0) * 100.0) as u64;
        self.draw(phase, Some((percent, 100)), &format!("{percent} %"));
    }

    /// Shows the progress of a job.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the share is clamped to 0 to 1 first"
    )]
    pub(crate) fn job(&mut self, status: &str, share: f32, message: &str) {
        let percent = (share.clamp(0.0, 1.0) * 100.0) as u64;
        self.draw(status, Some((percent, 100)), message);
    }

    /// Shows the progress of a prefill.
    pub(crate) fn tokens(&mut self, phase: &str, done: usize, total: usize) {
        let message = format!("{done} / {total} tokens");
        self.draw(phase, (total > 0).then_some((done as u64, total as u64)), &message);
    }

    /// Shows a message without a bar.
    pub(crate) fn say(&mut self, phase: &str, message: &str) {
        self.draw(phase, None, message);
    }

    fn draw(&mut self, phase: &str, done_of: Option<(u64, u64)>, message: &str) {
        let is_due = self.drawn_at.is_none_or(|drawn_at| drawn_at.elapsed() >= PAUSE);
        if self.is_watched && is_due {
            self.drawn_at = Some(Instant::now());
            // A failed drawing has no consequence.
            let _ = write!(io::stderr(), "{ERASE}{}", line(phase, done_of, message));
        }
    }

    /// Erases the line.
    pub(crate) fn clear(&mut self) {
        if self.drawn_at.take().is_some() {
            let _ = write!(io::stderr(), "{ERASE}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn line(phase: &str, done_of: Option<(u64, u64)>, message: &str) -> String {
    let bar = done_of.map_or_else(String::new, |(done, total)| {
        let full = u128::from(done.min(total)) * BAR as u128 / u128::from(total.max(1));
        let full = usize::try_from(full).unwrap_or(BAR);
        format!("[{:<BAR$}] ", "=".repeat(full))
    });
    let line = format!("{phase} {bar}{message}");
    line.chars().filter(|c| !c.is_control()).take(LINE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_shows_bar_and_fits_a_terminal() {
        let bar = "=".repeat(15) + &" ".repeat(15);
        assert_eq!(line("loading", Some((1, 2)), "50 %"), format!("loading [{bar}] 50 %"));
        assert_eq!(line("queued", None, "behind 1"), "queued behind 1");
        assert!(line("x", Some((9, 3)), &"y".repeat(200)).contains(&"=".repeat(BAR)));
        assert_eq!(line("x", None, &"y".repeat(200)).len(), LINE);
    }
}
