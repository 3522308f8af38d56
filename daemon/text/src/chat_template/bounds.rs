//! Limits on what a template may build while it runs.
//!
//! Owns the counters of one rendering. The engine's own fuel counts steps, but one step can make or
//! look at a text or list of any size: every value a template makes is therefore measured here, so
//! that no single step takes long, and between the steps a stopwatch ends the rest. The stopwatch
//! decides nothing but that: the time a template sees is an argument.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::TextError;

/// Bytes of text made in one rendering, output and intermediate results together.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// Items of lists and maps looked at in one rendering.
const MAX_ITEMS: u64 = 10_000_000;

/// Items of one list or map, with all that is in them.
const MAX_ITEMS_OF_ONE: u64 = 100_000;

/// Bytes of text in one list or map, every mention of a text counted.
const MAX_TEXT_OF_ONE: u64 = 64 << 20;

/// Deepest nesting of lists and maps.
const MAX_NESTING: u64 = 64;

/// The longest rendering.
const MAX_TIME: Duration = Duration::from_secs(2);

/// The counters of one rendering, and why it had to end.
#[derive(Debug)]
pub(super) struct Bounds {
    started: Instant,
    text_bytes: AtomicU64,
    items: AtomicU64,
    stop: Mutex<Option<TextError>>,
}

/// What has been seen of one container.
#[derive(Default)]
struct Seen {
    items: u64,
    text_bytes: u64,
}

impl Bounds {
    /// Starts the stopwatch.
    pub(super) fn start() -> Self {
        Self {
            started: Instant::now(),
            text_bytes: AtomicU64::new(0),
            items: AtomicU64::new(0),
            stop: Mutex::new(None),
        }
    }

    /// Why the rendering was ended from here, if it was.
    pub(super) fn stop(&self) -> Option<TextError> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the rendering for this reason.
    pub(super) fn end(&self, reason: TextError) -> Error {
        let error = Error::new(ErrorKind::InvalidOperation, reason.to_string());
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        error
    }

    fn exceeded(&self, what: &'static str, limit: u64) -> Error {
        self.end(TextError::ChatTemplateLimit { what, limit })
    }

    /// Counts `bytes` of text that are about to be made.
    pub(super) fn charge_text(&self, bytes: usize) -> Result<(), Error> {
        let bytes = bytes as u64;
        let before = self.text_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > MAX_TEXT_BYTES {
            return Err(self.exceeded("bytes of text", MAX_TEXT_BYTES));
        }
        Ok(())
    }

    fn charge_items(&self, items: u64) -> Result<(), Error> {
        let before = self.items.fetch_add(items, Ordering::Relaxed);
        if before.saturating_add(items) > MAX_ITEMS {
            return Err(self.exceeded("items of lists", MAX_ITEMS));
        }
        Ok(())
    }

    /// Looks at the stopwatch.
    pub(super) fn check_time(&self) -> Result<(), Error> {
        if self.started.elapsed() > MAX_TIME {
            return Err(self.exceeded("seconds", MAX_TIME.as_secs()));
        }
        Ok(())
    }

    /// Counts a value that has just been made, and gives it back. Lazy sequences come back as
    /// lists, for otherwise they could be wrapped in each other without end.
    pub(super) fn charge(&self, value: Value) -> Result<Value, Error> {
        self.check_time()?;
        if let Some(text) = value.as_str() {
            self.charge_text(text.len())?;
            return Ok(value);
        }
        let value = match value.kind() {
            ValueKind::Iterable => self.to_list(&value)?,
            _ => value,
        };
        let mut seen = Seen::default();
        let outcome = self.walk(&value, 0, &mut seen);
        self.charge_items(seen.items)?;
        outcome.map(|()| value)
    }

    fn to_list(&self, value: &Value) -> Result<Value, Error> {
        let mut items = Vec::new();
        for item in value.try_iter()? {
            if items.len() as u64 >= MAX_ITEMS_OF_ONE {
                return Err(self.too_many_items());
            }
            items.push(item);
        }
        Ok(Value::from(items))
    }

    fn too_many_items(&self) -> Error {
        self.exceeded("items of one list", MAX_ITEMS_OF_ONE)
    }

    /// Refuses to take a text apart into so many items.
    pub(super) fn check_items(&self, items: usize) -> Result<(), Error> {
        if items as u64 > MAX_ITEMS_OF_ONE { Err(self.too_many_items()) } else { Ok(()) }
    }

    /// Refuses a container that is too large, too deep, or that holds a namespace: a namespace
    /// can be changed later, so it could come to hold itself.
    fn walk(&self, value: &Value, depth: u64, seen: &mut Seen) -> Result<(), Error> {
        if let Some(text) = value.as_str() {
            seen.text_bytes += text.len() as u64;
            if seen.text_bytes > MAX_TEXT_OF_ONE {
                return Err(self.exceeded("bytes of text in one list", MAX_TEXT_OF_ONE));
            }
        }
        let is_map = value.kind() == ValueKind::Map;
        if !is_map && !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
            return Ok(());
        }
        if depth > MAX_NESTING {
            return Err(self.exceeded("lists inside each other", MAX_NESTING));
        }
        for item in value.try_iter()? {
            seen.items += 1;
            if seen.items > MAX_ITEMS_OF_ONE {
                return Err(self.too_many_items());
            }
            let item = if is_map {
                self.walk(&item, depth + 1, seen)?;
                value.get_item(&item)?
            } else {
                item
            };
            self.refuse_namespace(&item)?;
            self.walk(&item, depth + 1, seen)?;
        }
        Ok(())
    }

    /// Refuses a namespace as a part of another value.
    pub(super) fn refuse_namespace(&self, value: &Value) -> Result<(), Error> {
        let is_namespace =
            value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"));
        if is_namespace {
            let problem = "a namespace cannot be stored in another value".to_owned();
            return Err(self.end(TextError::ChatTemplate(problem)));
        }
        Ok(())
    }

    /// The value's text, counted while it is made.
    pub(super) fn text_of(&self, value: &Value) -> Result<String, Error> {
        let mut text = BoundedText { text: String::new(), bounds: self };
        match value.as_str() {
            Some(string) => text.write_str(string),
            None => write!(text, "{value}"),
        }
        .map_err(|_| self.text_failed())?;
        Ok(text.text)
    }

    /// The error that a formatter, which can only say that it failed, stood for.
    pub(super) fn text_failed(&self) -> Error {
        let reason =
            self.stop().map_or_else(|| "a value has no text".to_owned(), |s| s.to_string());
        Error::new(ErrorKind::InvalidOperation, reason)
    }
}

/// A string that stops growing at the limit.
pub(super) struct BoundedText<'a> {
    pub(super) text: String,
    pub(super) bounds: &'a Bounds,
}

impl Write for BoundedText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bounds.charge_text(text.len()).map_err(|_| fmt::Error)?;
        self.text.push_str(text);
        Ok(())
    }
}
