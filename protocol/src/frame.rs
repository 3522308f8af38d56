//! Newline-delimited JSON frames, bounded in size.
//!
//! Owns finding frame boundaries in a byte stream and recovering after a frame that is too long, of
//! which it keeps only the id that [`Scan`] finds. Knows no method and reads no clock: its owner
//! decides how long half a frame may wait ([`FrameReader::has_partial`],
//! [`FrameReader::discard_partial`]).

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::jsonrpc::scan::Scan;

const READ_BYTES: usize = 16 * 1024;

/// One step of reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A whole line without its newline. Empty lines are skipped.
    Line(Vec<u8>),
    /// A line passed the limit; its bytes are discarded and reading resumes at the next line. The
    /// id of the request that it was, as JSON, where that is certain.
    TooLong(Option<String>),
    /// The stream ended inside a line: the bytes of it that came.
    Torn(Vec<u8>),
}

/// Splits a byte stream into frames. Cancel-safe: a dropped [`FrameReader::next`] or
/// [`FrameReader::fill`] loses no byte.
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: R,
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` known to hold no newline.
    scanned: usize,
    limit: usize,
    present: Present,
}

/// The fate of the present line.
#[derive(Debug, Default)]
enum Present {
    /// It is kept.
    #[default]
    Kept,
    /// It is too long: it is scanned as it passes, and reported at its end.
    TooLong(Box<Scan>),
    /// It is discarded up to its newline, without a report.
    GivenUp,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames of at most `limit` bytes.
    pub fn new(reader: R, limit: usize) -> Self {
        Self { reader, buffer: Vec::new(), scanned: 0, limit, present: Present::Kept }
    }

    /// Whether bytes of an unfinished frame are waiting.
    #[must_use]
    pub fn has_partial(&self) -> bool {
        match self.present {
            Present::Kept => !self.buffer.is_empty(),
            Present::TooLong(_) => true,
            Present::GivenUp => false,
        }
    }

    /// Discards the unfinished frame, and the rest of it when it comes. Returns whether it was too
    /// long already.
    pub fn discard_partial(&mut self) -> bool {
        self.clear_buffer();
        matches!(std::mem::replace(&mut self.present, Present::GivenUp), Present::TooLong(_))
    }

    /// Continues with bytes that another reader of the same stream has read already.
    #[must_use]
    pub fn with_buffered(mut self, bytes: Vec<u8>) -> Self {
        self.buffer = bytes;
        self
    }

    /// The bytes that were read and that no frame has used.
    #[must_use]
    pub fn into_buffered(self) -> Vec<u8> {
        self.buffer
    }

    /// The next frame, or `None` at the end of the stream.
    ///
    /// # Errors
    /// Whatever reading reports.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.pop() {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return Ok(self.finish());
            }
        }
    }

    /// Reads once; `false` at the end of the stream.
    ///
    /// # Errors
    /// Whatever reading reports.
    pub async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(READ_BYTES);
        // `read_buf` is cancel-safe: bytes are either in the buffer or still in the stream.
        Ok(self.reader.read_buf(&mut self.buffer).await? > 0)
    }

    /// The frame that the end of the stream cut off, if any.
    pub fn finish(&mut self) -> Option<Frame> {
        let torn = std::mem::take(&mut self.buffer);
        self.scanned = 0;
        match std::mem::take(&mut self.present) {
            Present::Kept => {
                let nothing = torn.iter().all(u8::is_ascii_whitespace);
                (!nothing).then_some(Frame::Torn(torn))
            }
            Present::TooLong(scan) => Some(too_long(*scan, &torn)),
            Present::GivenUp => None,
        }
    }

    /// The next frame among the bytes read so far.
    pub fn pop(&mut self) -> Option<Frame> {
        loop {
            let newline = self.buffer[self.scanned..].iter().position(|&byte| byte == b'\n');
            let Some(offset) = newline else {
                self.scanned = self.buffer.len();
                match &mut self.present {
                    Present::Kept if self.buffer.len() <= self.limit => {}
                    Present::Kept => {
                        let mut scan = Box::<Scan>::default();
                        scan.take(&self.buffer);
                        self.present = Present::TooLong(scan);
                        self.clear_buffer();
                    }
                    Present::TooLong(scan) => {
                        scan.take(&self.buffer);
                        self.clear_buffer();
                    }
                    Present::GivenUp => self.clear_buffer(),
                }
                return None;
            };
            let end = self.scanned + offset;
            let rest = self.buffer.split_off(end + 1);
            let mut line = std::mem::replace(&mut self.buffer, rest);
            self.scanned = 0;
            match std::mem::take(&mut self.present) {
                Present::Kept => {}
                Present::TooLong(scan) => return Some(too_long(*scan, &line)),
                Present::GivenUp => continue,
            }
            line.truncate(end);
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if line.len() > self.limit {
                return Some(too_long(Scan::default(), &line));
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some(Frame::Line(line));
            }
        }
    }

    fn clear_buffer(&mut self) {
        self.scanned = 0;
        // The memory of a huge line is freed.
        self.buffer = Vec::new();
    }
}

/// A line over the limit, of which `rest` was not read yet.
fn too_long(mut scan: Scan, rest: &[u8]) -> Frame {
    scan.take(rest);
    Frame::TooLong(scan.id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    async fn frames(chunks: &[&[u8]], limit: usize) -> Vec<Frame> {
        let mut mock = Vec::new();
        for chunk in chunks {
            mock.extend_from_slice(chunk);
        }
        let mut reader = FrameReader::new(mock.as_slice(), limit);
        let mut all = Vec::new();
        while let Some(frame) = reader.next().await.unwrap() {
            all.push(frame);
        }
        all
    }

    fn line(text: &str) -> Frame {
        Frame::Line(text.as_bytes().to_vec())
    }

    #[tokio::test]
    async fn lines_are_split_and_blanks_skipped() {
        assert_eq!(frames(&[b"a\r\n\n  \nbc\n"], 8).await, [line("a"), line("bc")]);
    }

    #[tokio::test]
    async fn long_line_is_reported_once() {
        let long = vec![b'x'; 100_000];
        assert_eq!(frames(&[&long, b"\nok\n"], 8).await, [Frame::TooLong(None), line("ok")]);
    }

    #[tokio::test]
    async fn long_request_is_reported_with_its_id() {
        let text = "x".repeat(100_000);
        let first = format!(r#"{{"id":1,"method":"x","params":"{text}"}}"#);
        let last = format!(r#"{{"method":"x","params":"{text}","id":"a"}}"#);
        let (one, a) =
            (Frame::TooLong(Some("1".to_owned())), Frame::TooLong(Some("\"a\"".to_owned())));
        let stream = format!("{first}\n{last}\r\nok\n{last}");
        let expected = [one, a.clone(), line("ok"), a];
        assert_eq!(frames(&[stream.as_bytes()], 64).await, expected);
        // From the buffer of another reader, whole or not.
        for cut in [0, 60, 200, first.len() + 1] {
            let (buffered, rest) = stream.as_bytes().split_at(cut);
            let mut reader = FrameReader::new(rest, 64).with_buffered(buffered.to_vec());
            let mut all = Vec::new();
            while let Some(frame) = reader.next().await.unwrap() {
                all.push(frame);
            }
            assert_eq!(all, expected, "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn torn_line_differs_from_whole_line() {
        assert_eq!(frames(&[b"a\nb"], 8).await, [line("a"), Frame::Torn(b"b".to_vec())]);
    }

    #[tokio::test]
    async fn discarded_half_frame_leaves_the_next_whole() {
        let (mut writer, reader) = tokio::io::duplex(64);
        let mut reader = FrameReader::new(reader, 64);
        tokio::io::AsyncWriteExt::write_all(&mut writer, b"half").await.unwrap();
        let waiting =
            tokio::time::timeout(std::time::Duration::from_millis(1), reader.next()).await;
        assert!(waiting.is_err() && reader.has_partial());
        reader.discard_partial();
        tokio::io::AsyncWriteExt::write_all(&mut writer, b" rest\nnext\n").await.unwrap();
        assert_eq!(reader.next().await.unwrap(), Some(line("next")));
    }

    proptest! {
        #[test]
        fn any_bytes_give_frames_within_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for frame in runtime.block_on(frames(&[&bytes], 16)) {
                if let Frame::Line(line) = frame {
                    prop_assert!(line.len() <= 16 && !line.contains(&b'\n'));
                }
            }
        }
    }
}
