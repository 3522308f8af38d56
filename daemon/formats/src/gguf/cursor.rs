//! Bounded, buffered reader of a file's header.
//!
//! Owns the position, and the checks that nothing is read or allocated past the end of the file or past
//! the size limit of a header. Knows little-endian numbers and strings. Does not know keys.

use super::super::data::Data;
use super::error::GgufErrorKind;
use super::limits::MAX_HEADER_BYTES;

/// Bytes of one read. A vocabulary of 50,000 tokens takes about two reads.
const WINDOW_BYTES: usize = 1 << 20;

pub(super) struct Cursor<'a> {
    data: &'a Data,
    file_bytes: u64,
    window: Vec<u8>,
    window_start: u64,
    position: u64,
    /// The part of the file being read, for error messages.
    pub(super) what: String,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(data: &'a Data, file_bytes: u64) -> Self {
        Self {
            data,
            file_bytes,
            window: Vec::new(),
            window_start: 0,
            position: 0,
            what: "the header".to_owned(),
        }
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Checks that `bytes` more bytes are in the file and within the header's limit.
    pub(super) fn require(&self, bytes: u64) -> Result<u64, GgufErrorKind> {
        let end = self.position.saturating_add(bytes);
        if end > self.file_bytes {
            return Err(GgufErrorKind::Truncated {
                what: self.what.clone(),
                start: self.position,
                end,
                file_bytes: self.file_bytes,
            });
        }
        if end > MAX_HEADER_BYTES {
            return Err(GgufErrorKind::TooLarge {
                what: format!("the header up to {}, in bytes,", self.what),
                found: end,
                limit: MAX_HEADER_BYTES,
            });
        }
        Ok(end)
    }

    /// Checks that `count` items of at least `min_bytes` each can follow.
    ///
    /// Returns the count as a size that is safe to allocate.
    pub(super) fn require_items(&self, count: u64, min_bytes: u64) -> Result<usize, GgufErrorKind> {
        self.require(count.saturating_mul(min_bytes))?;
        usize::try_from(count).map_err(|_| GgufErrorKind::TooLarge {
            what: self.what.clone(),
            found: count,
            limit: usize::MAX as u64,
        })
    }

    fn fill(&mut self) -> Result<(), GgufErrorKind> {
        let left = self.file_bytes - self.position;
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(WINDOW_BYTES);
        self.window.resize(len, 0);
        self.data
            .read_exact_at(&mut self.window, self.position)
            .map_err(|error| GgufErrorKind::Io(error.to_string()))?;
        self.window_start = self.position;
        Ok(())
    }

    fn copy_to(&mut self, mut out: &mut [u8]) -> Result<(), GgufErrorKind> {
        self.require(out.len() as u64)?;
        while !out.is_empty() {
            let window_end = self.window_start + self.window.len() as u64;
            if self.position >= window_end {
                self.fill()?;
            }
            let from = (self.position - self.window_start) as usize;
            let len = out.len().min(self.window.len() - from);
            let (head, rest) = out.split_at_mut(len);
            head.copy_from_slice(&self.window[from..from + len]);
            self.position += len as u64;
            out = rest;
        }
        Ok(())
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufErrorKind> {
        let mut out = [0; N];
        self.copy_to(&mut out)?;
        Ok(out)
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufErrorKind> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufErrorKind> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Reads a UTF-8 string of at most `limit` bytes, after its 64-bit length.
    pub(super) fn string(&mut self, limit: u64) -> Result<String, GgufErrorKind> {
        let len = self.u64()?;
        if len > limit {
            return Err(GgufErrorKind::TooLarge {
                what: format!("the length of a string of {}", self.what),
                found: len,
                limit,
            });
        }
        let mut bytes = vec![0; self.require_items(len, 1)?];
        self.copy_to(&mut bytes)?;
        String::from_utf8(bytes).map_err(|error| GgufErrorKind::Invalid {
            what: self.what.clone(),
            problem: format!(
                "a string is not UTF-8 at its byte {}",
                error.utf8_error().valid_up_to()
            ),
        })
    }
}
