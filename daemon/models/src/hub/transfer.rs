//! One file from the hub to the disk, whatever happens on the way.
//!
//! Owns going on after a lost connection, and the proof that what came is what was promised.
//! Knows nothing of which files make up a model.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::limits;
use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;
use tokio::sync::mpsc;
use tokio_util::bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::client::{Answer, Client, lost};
use super::error::HubError;
use super::part::{self, Part};
use super::select::RemoteFile;
use crate::error::PullError;
use crate::staging;

/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// A file to fetch, and where to.
pub(super) struct Transfer<'a> {
    pub(super) client: &'a Client,
    pub(super) repo: &'a str,
    pub(super) commit: &'a str,
    pub(super) file: &'a RemoteFile,
    /// Where it is to be.
    pub(super) target: PathBuf,
    /// The first pause before a new attempt.
    pub(super) retry: Duration,
    pub(super) cancel: &'a CancellationToken,
}

/// How one attempt ended, if not with the disk's refusal.
enum Attempt {
    /// All bytes are here.
    Whole(Part),
    /// The connection was lost, or the server wants the file to be begun anew.
    Again(Part, HubError),
}

impl Transfer<'_> {
    /// Fetches the file and returns its SHA-256. `report` takes the bytes that are here.
    pub(super) async fn run(&self, report: &(dyn Fn(u64) + Sync)) -> Result<String, PullError> {
        let mut part = self.open().await?;
        let mut fruitless = 0;
        loop {
            let before = part.bytes;
            match self.attempt(part, report).await? {
                Attempt::Whole(whole) => match self.finish(whole).await? {
                    Ok(sha256) => return Ok(sha256),
                    // What an earlier pull left was damaged: once more, from the beginning.
                    Err(empty) => part = empty,
                },
                Attempt::Again(rest, error) => {
                    part = rest;
                    fruitless = if part.bytes > before { 0 } else { fruitless + 1 };
                    if !error.is_transient() || fruitless >= limits::HUB_ATTEMPTS {
                        return Err(error.into());
                    }
                    tracing::debug!(%error, file = self.file.name(), "a download goes on");
                    pause(self.retry, fruitless, self.cancel).await?;
                }
            }
        }
    }

    async fn open(&self) -> Result<Part, PullError> {
        let (target, size_bytes) = (self.target.clone(), self.file.size_bytes);
        let cancel = self.cancel.clone();
        blocking(move || {
            staging::make_room(&target)?;
            Part::open(&target, size_bytes, &cancel)
        })
        .await
    }

    async fn attempt(
        &self,
        part: Part,
        report: &(dyn Fn(u64) + Sync),
    ) -> Result<Attempt, PullError> {
        let part = if self.file.sha256.is_none() && part.bytes > 0 {
            // Nothing would prove that the halves of such a file, which is small, belong together.
            blocking(move || {
                let mut part = part;
                part.restart().map(|()| part)
            })
            .await?
        } else {
            part
        };
        report(part.bytes);
        if self.file.size_bytes == Some(part.bytes) {
            return Ok(Attempt::Whole(part));
        }
        let target = self.target.clone();
        let (part, resume) = blocking(move || {
            let resume = part::resume(&part, &target);
            Ok((part, resume))
        })
        .await?;
        let path = &self.file.path;
        let answer = tokio::select! {
            () = self.cancel.cancelled() => return Err(PullError::Cancelled),
            answer = self.client.file(self.repo, self.commit, path, &resume) => answer,
        };
        match answer {
            Ok(answer) => self.receive(part, answer, report).await,
            Err(error) => Ok(Attempt::Again(part, error)),
        }
    }

    /// Takes in what the server sends.
    async fn receive(
        &self,
        part: Part,
        answer: Answer,
        report: &(dyn Fn(u64) + Sync),
    ) -> Result<Attempt, PullError> {
        if let (Some(linked), Some(expected)) = (&answer.linked, &self.file.sha256)
            && linked != expected
        {
            return Err(self.mismatch(linked.clone()));
        }
        let goes_on = self.goes_on(&answer, part.bytes);
        let (target, host) = (self.target.clone(), answer.host.clone());
        let tag = answer.strong_tag();
        let part = blocking(move || {
            let mut part = part;
            if !goes_on {
                part.restart()?;
            }
            part::write_tag(&target, &host, tag.as_deref()).map(|()| part)
        })
        .await?;
        let wrong =
            |reason: &str| HubError::Answer { host: answer.host.clone(), reason: reason.into() };
        if answer.response.status() != StatusCode::OK && !goes_on {
            // A range that was not asked for: without one, the whole file comes.
            let status = answer.response.status().as_u16();
            let error = HubError::Unreachable {
                host: answer.host.clone(),
                reason: format!("it sends another part of the file (HTTP {status})"),
            };
            return Ok(Attempt::Again(part, error));
        }
        let mut bytes = part.bytes;
        let (sender, receiver) = mpsc::channel(limits::HUB_CHUNKS);
        let writer = tokio::task::spawn_blocking(move || write(part, receiver));
        let mut response = answer.response;
        // Every way out of the loop closes the channel, so that the writer ends.
        let ended = loop {
            let chunk = tokio::select! {
                () = self.cancel.cancelled() => break Err(PullError::Cancelled),
                chunk = response.chunk() => chunk,
            };
            match chunk {
                Ok(Some(chunk)) => {
                    bytes += chunk.len() as u64;
                    if self.file.size_bytes.is_some_and(|size| bytes > size) {
                        break Err(wrong("more bytes than the file has").into());
                    }
                    if sender.send(chunk).await.is_err() {
                        // The disk refused; the writer says why.
                        break Ok(None);
                    }
                    report(bytes);
                }
                Ok(None) => break Ok(None),
                Err(error) => break Ok(Some(lost(&answer.host, error))),
            }
        };
        drop(sender);
        let part = writer.await.unwrap_or(Err(PullError::Lost))?;
        match ended? {
            Some(error) => Ok(Attempt::Again(part, error)),
            None if self.file.size_bytes.is_some_and(|size| part.bytes < size) => {
                let reason = "the connection ended early".to_owned();
                let error = HubError::Unreachable { host: answer.host, reason };
                Ok(Attempt::Again(part, error))
            }
            None => Ok(Attempt::Whole(part)),
        }
    }

    /// Whether the answer begins right after the bytes that are here.
    fn goes_on(&self, answer: &Answer, here: u64) -> bool {
        if here == 0 {
            return answer.response.status() == StatusCode::OK;
        }
        let range =
            answer.response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let Some(range) = range.and_then(|range| range.strip_prefix("bytes ")) else {
            return false;
        };
        let Some((span, total)) = range.split_once('/') else { return false };
        let first = span.split_once('-').and_then(|(first, _)| first.parse().ok());
        let is_same_size = match (total.parse::<u64>(), self.file.size_bytes) {
            (Ok(total), Some(size)) => total == size,
            _ => true,
        };
        answer.response.status() == StatusCode::PARTIAL_CONTENT
            && first == Some(here)
            && is_same_size
    }

    /// Proves the file and puts it in its place. `Err` is the emptied part, when bytes of an
    /// earlier pull were wrong.
    async fn finish(&self, part: Part) -> Result<Result<String, Part>, PullError> {
        let found = part.sha256();
        let target = self.target.clone();
        let is_right = self.file.sha256.as_ref().is_none_or(|expected| *expected == found);
        let is_old = part.is_old;
        let outcome = blocking(move || {
            if is_right {
                return part.finish(&target).map(|()| None);
            }
            let mut part = part;
            part.restart()?;
            part::write_tag(&target, "", None).map(|()| Some(part))
        })
        .await?;
        match outcome {
            None => Ok(Ok(found)),
            Some(empty) if is_old => Ok(Err(empty)),
            Some(_) => Err(self.mismatch(found)),
        }
    }

    fn mismatch(&self, found: String) -> PullError {
        PullError::HashMismatch {
            what: format!("`{}` of `{}`", self.file.path, self.repo),
            found,
            expected: self.file.sha256.clone().unwrap_or_default(),
        }
    }
}

/// Waits before a new attempt; longer the more came to nothing.
pub(super) async fn pause(
    first: Duration,
    fruitless: u32,
    cancel: &CancellationToken,
) -> Result<(), PullError> {
    let pause = first.saturating_mul(1 << fruitless.min(8)).min(MAX_PAUSE);
    tokio::select! {
        () = cancel.cancelled() => Err(PullError::Cancelled),
        () = tokio::time::sleep(pause) => Ok(()),
    }
}

/// Writes chunks to the disk until no more come.
fn write(mut part: Part, mut chunks: mpsc::Receiver<Bytes>) -> Result<Part, PullError> {
    while let Some(chunk) = chunks.blocking_recv() {
        part.write(&chunk)?;
    }
    Ok(part)
}

/// Runs file work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PullError> + Send + 'static,
) -> Result<T, PullError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(PullError::Lost))
}

/// Where a repository's file lies below `folder`.
pub(super) fn place(folder: &Path, file: &RemoteFile) -> PathBuf {
    folder.join(file.name())
}
