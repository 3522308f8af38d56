//! Counters of one rendering: text, items and time.
//!
//! Owns the limits on the values that a template makes. minijinja's fuel counts steps, but one step can
//! make or read a string or list of any size. Every value is therefore measured here, so that no single
//! step takes long, and a stopwatch ends the rendering between two steps. The stopwatch has no other
//! use: a template's own date functions do not read it.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::RenderError;

/// Maximum bytes of text made in one rendering, output and intermediate results together.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// Maximum number of items of lists and maps read in one rendering.
const MAX_ITEMS: u64 = 10_000_000;

/// Maximum number of items of one list or map, nested items included.
const MAX_ITEMS_OF_ONE: u64 = 100_000;

/// Maximum bytes of text in one list or map; a string counts at each of its places.
const MAX_TEXT_OF_ONE: u64 = 64 << 20;

/// Maximum nesting of lists and maps.
const MAX_NESTING: u64 = 64;

/// Maximum duration of one rendering.
const MAX_TIME: Duration = Duration::from_secs(2);

/// The counters of one rendering, and the reason if they ended it.
#[derive(Debug)]
pub struct Bounds {
    started: Instant,
    text_bytes: AtomicU64,
    items: AtomicU64,
    stopped: Mutex<Option<RenderError>>,
}

/// Size of one container, as far as it has been walked.
#[derive(Default)]
struct ContainerSize {
    items: u64,
    text_bytes: u64,
}

impl Bounds {
    /// Starts the stopwatch.
    pub(crate) fn start() -> Self {
        Self {
            started: Instant::now(),
            text_bytes: AtomicU64::new(0),
            items: AtomicU64::new(0),
            stopped: Mutex::new(None),
        }
    }

    /// The reason if these bounds ended the rendering.
    pub(crate) fn stopped(&self) -> Option<RenderError> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The error that ends the rendering for this reason.
    pub fn end(&self, reason: RenderError) -> Error {
        let error = Error::new(ErrorKind::InvalidOperation, reason.to_string());
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        error
    }

    fn exceeded(&self, what: &'static str, limit: u64) -> Error {
        self.end(RenderError::Limit { what, limit })
    }

    /// Counts `bytes` of text before they are made.
    ///
    /// # Errors
    /// When the rendering reaches its limit on text.
    pub fn charge_text(&self, bytes: usize) -> Result<(), Error> {
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

    /// Ends the rendering if its time is over.
    pub(crate) fn check_time(&self) -> Result<(), Error> {
        if self.started.elapsed() > MAX_TIME {
            return Err(self.exceeded("seconds", MAX_TIME.as_secs()));
        }
        Ok(())
    }

    /// Measures a value that has just been made, and returns it.
    ///
    /// A lazy sequence becomes a list: lazy sequences could wrap each other without end.
    pub(crate) fn charge(&self, value: Value) -> Result<Value, Error> {
        self.check_time()?;
        if let Some(text) = value.as_str() {
            self.charge_text(text.len())?;
            return Ok(value);
        }
        let value = match value.kind() {
            ValueKind::Iterable => self.to_list(&value)?,
            _ => value,
        };
        let mut size = ContainerSize::default();
        let outcome = self.walk(&value, 0, &mut size);
        self.charge_items(size.items)?;
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

    /// Refuses to split a string into this many items.
    pub(crate) fn check_items(&self, items: usize) -> Result<(), Error> {
        if items as u64 > MAX_ITEMS_OF_ONE { Err(self.too_many_items()) } else { Ok(()) }
    }

    /// Refuses a container that is too large, too deep, or that holds a namespace.
    ///
    /// A namespace can change later, so a container in it could come to hold itself.
    fn walk(&self, value: &Value, depth: u64, size: &mut ContainerSize) -> Result<(), Error> {
        if let Some(text) = value.as_str() {
            size.text_bytes += text.len() as u64;
            if size.text_bytes > MAX_TEXT_OF_ONE {
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
            size.items += 1;
            if size.items > MAX_ITEMS_OF_ONE {
                return Err(self.too_many_items());
            }
            let item = if is_map {
                self.walk(&item, depth + 1, size)?;
                value.get_item(&item)?
            } else {
                item
            };
            self.refuse_namespace(&item)?;
            self.walk(&item, depth + 1, size)?;
        }
        Ok(())
    }

    /// Refuses a namespace inside another value.
    pub(crate) fn refuse_namespace(&self, value: &Value) -> Result<(), Error> {
        let is_namespace =
            value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"));
        if is_namespace {
            let problem = "a namespace cannot be stored in another value".to_owned();
            return Err(self.end(RenderError::Failed(problem)));
        }
        Ok(())
    }

    /// The value as text, counted while it is written.
    ///
    /// # Errors
    /// When the rendering reaches its limit on text, or the value has no text.
    pub fn text_of(&self, value: &Value) -> Result<String, Error> {
        let mut text = BoundedText::new(self);
        match value.as_str() {
            Some(string) => text.write_str(string),
            None => write!(text, "{value}"),
        }
        .map_err(|_| self.text_failed())?;
        Ok(text.text)
    }

    /// The error behind a [`fmt::Error`] of a [`BoundedText`], which carries no reason.
    pub fn text_failed(&self) -> Error {
        let reason =
            self.stopped().map_or_else(|| "a value has no text".to_owned(), |s| s.to_string());
        Error::new(ErrorKind::InvalidOperation, reason)
    }
}

/// A string that cannot grow beyond the rendering's limit on text.
#[derive(Debug)]
pub struct BoundedText<'a> {
    text: String,
    bounds: &'a Bounds,
}

impl<'a> BoundedText<'a> {
    /// An empty string, counted in `bounds`.
    #[must_use]
    pub fn new(bounds: &'a Bounds) -> Self {
        Self { text: String::new(), bounds }
    }

    /// The bounds that count this string.
    #[must_use]
    pub fn bounds(&self) -> &'a Bounds {
        self.bounds
    }

    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

impl Write for BoundedText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bounds.charge_text(text.len()).map_err(|_| fmt::Error)?;
        self.text.push_str(text);
        Ok(())
    }
}
