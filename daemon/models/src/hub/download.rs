//! Downloads from the hub: a whole model, and each of its files.
//!
//! Owns which commit a download is of, the resumption after a lost connection, the check of each file
//! against the hub's SHA-256, and the token's file. Does not know callers, nor what becomes of the
//! folder.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;
use tokio::sync::mpsc;
use tokio_util::bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::client::{Client, FileResponse, lost};
use super::error::HubError;
use super::partial::{self, PartialFile};
use super::select::{self, RemoteFile};
use super::{HubSetup, Secret};
use crate::error::PullError;
use crate::limits;
use crate::names::Reference;
use crate::staging::{self, blocking};

/// Maximum size of a token, in bytes.
const TOKEN_BYTES: u64 = 4_096;
/// The default revision.
const MAIN: &str = "main";
/// Maximum pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// A model of the hub at one commit.
pub(crate) struct RemoteModel {
    client: Client,
    repo: String,
    /// The commit, whose contents never change.
    pub(crate) commit: String,
    files: Vec<RemoteFile>,
}

/// Requests from the hub the commit and the files of the model that `wanted` names.
pub(crate) async fn resolve(
    setup: &HubSetup,
    wanted: &Reference,
    cancel: &CancellationToken,
) -> Result<RemoteModel, PullError> {
    let token = {
        let setup = setup.clone();
        blocking(move || Ok(setup.token())).await?
    };
    let client = Client::new(setup, token)?;
    let revision = wanted.revision.as_deref().unwrap_or(MAIN);
    let mut fruitless = 0;
    let (commit, files) = loop {
        let response = tokio::select! {
            () = cancel.cancelled() => return Err(PullError::Cancelled),
            response = client.files(&wanted.repo, revision) => response,
        };
        match response {
            Ok(response) => break response,
            Err(error) => {
                fruitless += 1;
                if !error.is_transient() || fruitless >= limits::HUB_ATTEMPTS {
                    return Err(error.into());
                }
                pause(setup.retry, fruitless, cancel).await?;
            }
        }
    };
    let files = {
        // A repository can list very many files, so the selection runs on a blocking thread.
        let wanted = wanted.clone();
        blocking(move || Ok(select::select(&wanted.repo, files, wanted.choice.as_deref())?)).await?
    };
    Ok(RemoteModel { client, repo: wanted.repo.clone(), commit, files })
}

impl RemoteModel {
    /// Total size of the files whose size the hub gives.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.files.iter().filter_map(|file| file.size_bytes).sum()
    }

    /// Bytes of the files that are in `folder` already.
    pub(crate) fn bytes_here(&self, folder: &Path) -> u64 {
        self.files.iter().map(|file| partial::bytes_here(&target_path(folder, file))).sum()
    }

    /// Downloads the files that are missing in `folder`.
    ///
    /// Returns the SHA-256 of the weights if they are one file, else an empty string. `report` gets the
    /// number of bytes on disk.
    pub(crate) async fn fetch(
        &self,
        setup: &HubSetup,
        folder: &Path,
        cancel: &CancellationToken,
        report: &(dyn Fn(u64) + Sync),
    ) -> Result<String, PullError> {
        let mut done_bytes = 0;
        let mut hashes = Vec::new();
        for file in &self.files {
            let target = target_path(folder, file);
            // A file has its final name only after its check.
            let here = fs::metadata(&target).map(|metadata| metadata.len()).ok();
            let is_whole = here.is_some_and(|here| file.size_bytes.is_none_or(|size| size == here));
            let sha256 = if is_whole {
                file.sha256.clone().unwrap_or_default()
            } else {
                let download = FileDownload {
                    client: &self.client,
                    repo: &self.repo,
                    commit: &self.commit,
                    file,
                    target: target.clone(),
                    retry: setup.retry,
                    cancel,
                };
                download.run(&|bytes| report(done_bytes + bytes)).await?
            };
            if file.is_weights() {
                hashes.push(sha256);
            }
            done_bytes += file.size_bytes.or(here).unwrap_or(0);
            report(done_bytes);
        }
        Ok(if let [one] = hashes.as_mut_slice() { std::mem::take(one) } else { String::new() })
    }
}

impl HubSetup {
    /// The token to send. Blocks, because it may read a file.
    ///
    /// Hugging Face's own login writes that file, so a login after the daemon's start takes effect.
    fn token(&self) -> Option<Secret> {
        if self.token.is_some() {
            return self.token.clone();
        }
        let path = self.token_file.as_ref()?;
        fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        let mut token = String::new();
        File::open(path).ok()?.take(TOKEN_BYTES).read_to_string(&mut token).ok()?;
        let token = token.trim();
        (!token.is_empty()).then(|| Secret::new(token.to_owned()))
    }
}

/// The download of one file.
struct FileDownload<'a> {
    client: &'a Client,
    repo: &'a str,
    commit: &'a str,
    file: &'a RemoteFile,
    /// The path of the complete file.
    target: PathBuf,
    /// The pause before the first new attempt.
    retry: Duration,
    cancel: &'a CancellationToken,
}

/// Result of one attempt, unless the disk fails.
enum Attempt {
    /// All bytes have been received.
    Complete(PartialFile),
    /// The connection was lost, or the server requires a new start.
    Retry(PartialFile, HubError),
}

impl FileDownload<'_> {
    /// Downloads the file and returns its SHA-256. `report` gets the number of bytes on disk.
    async fn run(&self, report: &(dyn Fn(u64) + Sync)) -> Result<String, PullError> {
        let mut part = self.open().await?;
        let mut fruitless = 0;
        loop {
            let before = part.bytes;
            match self.attempt(part, report).await? {
                Attempt::Complete(whole) => match self.finish(whole).await? {
                    Ok(sha256) => return Ok(sha256),
                    // The bytes of an earlier pull were damaged: start again from the beginning.
                    Err(empty) => part = empty,
                },
                Attempt::Retry(rest, error) => {
                    part = rest;
                    fruitless = if part.bytes > before { 0 } else { fruitless + 1 };
                    if !error.is_transient() || fruitless >= limits::HUB_ATTEMPTS {
                        return Err(error.into());
                    }
                    tracing::debug!(%error, file = self.file.name(), "resuming a download");
                    pause(self.retry, fruitless, self.cancel).await?;
                }
            }
        }
    }

    async fn open(&self) -> Result<PartialFile, PullError> {
        let (target, size_bytes) = (self.target.clone(), self.file.size_bytes);
        let cancel = self.cancel.clone();
        blocking(move || {
            staging::create_parent(&target)?;
            PartialFile::open(&target, size_bytes, &cancel)
        })
        .await
    }

    async fn attempt(
        &self,
        part: PartialFile,
        report: &(dyn Fn(u64) + Sync),
    ) -> Result<Attempt, PullError> {
        let part = if self.file.sha256.is_none() && part.bytes > 0 {
            // Without a hash nothing proves that both halves belong together. Such files are small.
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
            return Ok(Attempt::Complete(part));
        }
        let target = self.target.clone();
        let (part, resume) = blocking(move || {
            let resume = partial::resume(&part, &target);
            Ok((part, resume))
        })
        .await?;
        let path = &self.file.path;
        let response = tokio::select! {
            () = self.cancel.cancelled() => return Err(PullError::Cancelled),
            response = self.client.file(self.repo, self.commit, path, &resume) => response,
        };
        match response {
            Ok(response) => self.receive(part, response, report).await,
            Err(error) => Ok(Attempt::Retry(part, error)),
        }
    }

    /// Receives the server's response and writes it to the partial file.
    async fn receive(
        &self,
        part: PartialFile,
        response: FileResponse,
        report: &(dyn Fn(u64) + Sync),
    ) -> Result<Attempt, PullError> {
        if let (Some(linked), Some(expected)) = (&response.linked, &self.file.sha256)
            && linked != expected
        {
            return Err(self.mismatch(linked.clone()));
        }
        let continues = self.continues(&response, part.bytes);
        let (target, host) = (self.target.clone(), response.host.clone());
        let tag = response.strong_tag();
        let part = blocking(move || {
            let mut part = part;
            if !continues {
                part.restart()?;
            }
            partial::write_tag(&target, &host, tag.as_deref()).map(|()| part)
        })
        .await?;
        let wrong = |reason: &str| HubError::InvalidResponse {
            host: response.host.clone(),
            reason: reason.into(),
        };
        if response.http.status() != StatusCode::OK && !continues {
            // The server sent another range than requested. The next attempt requests no range.
            let status = response.http.status().as_u16();
            let error = HubError::Unreachable {
                host: response.host.clone(),
                reason: format!("it sends the wrong part of the file (HTTP {status})"),
            };
            return Ok(Attempt::Retry(part, error));
        }
        let mut bytes = part.bytes;
        let (sender, receiver) = mpsc::channel(limits::HUB_CHUNKS);
        let writer = tokio::task::spawn_blocking(move || write(part, receiver));
        let mut http = response.http;
        // Received chunks go through a bounded channel to a blocking thread that writes them. Every
        // exit of the loop closes the channel, so that the writer ends.
        let ended = loop {
            let chunk = tokio::select! {
                () = self.cancel.cancelled() => break Err(PullError::Cancelled),
                chunk = http.chunk() => chunk,
            };
            match chunk {
                Ok(Some(chunk)) => {
                    bytes += chunk.len() as u64;
                    if self.file.size_bytes.is_some_and(|size| bytes > size) {
                        break Err(wrong("more bytes than the size of the file").into());
                    }
                    if sender.send(chunk).await.is_err() {
                        // The writer has failed. Its own error is returned below.
                        break Ok(None);
                    }
                    report(bytes);
                }
                Ok(None) => break Ok(None),
                Err(error) => break Ok(Some(lost(&response.host, error))),
            }
        };
        drop(sender);
        let part = writer.await.unwrap_or(Err(PullError::Lost))?;
        match ended? {
            Some(error) => Ok(Attempt::Retry(part, error)),
            None if self.file.size_bytes.is_some_and(|size| part.bytes < size) => {
                let reason = "the connection ended early".to_owned();
                let error = HubError::Unreachable { host: response.host, reason };
                Ok(Attempt::Retry(part, error))
            }
            None => Ok(Attempt::Complete(part)),
        }
    }

    /// Whether the response continues right after the bytes on disk.
    fn continues(&self, response: &FileResponse, here: u64) -> bool {
        if here == 0 {
            return response.http.status() == StatusCode::OK;
        }
        let range =
            response.http.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let Some(range) = range.and_then(|range| range.strip_prefix("bytes ")) else {
            return false;
        };
        let Some((span, total)) = range.split_once('/') else { return false };
        let first = span.split_once('-').and_then(|(first, _)| first.parse().ok());
        let is_same_size = match (total.parse::<u64>(), self.file.size_bytes) {
            (Ok(total), Some(size)) => total == size,
            _ => true,
        };
        response.http.status() == StatusCode::PARTIAL_CONTENT && first == Some(here) && is_same_size
    }

    /// Checks the file's hash and moves it to its place.
    ///
    /// The inner `Err` holds the emptied partial file, if bytes of an earlier pull were wrong.
    async fn finish(&self, part: PartialFile) -> Result<Result<String, PartialFile>, PullError> {
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
            partial::write_tag(&target, "", None).map(|()| Some(part))
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

/// Waits before a new attempt. The pause doubles with each attempt that brought no bytes.
async fn pause(
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

/// Writes chunks to the partial file until the channel closes.
fn write(
    mut part: PartialFile,
    mut chunks: mpsc::Receiver<Bytes>,
) -> Result<PartialFile, PullError> {
    while let Some(chunk) = chunks.blocking_recv() {
        part.write(&chunk)?;
    }
    Ok(part)
}

/// The path of a repository's file below `folder`.
fn target_path(folder: &Path, file: &RemoteFile) -> PathBuf {
    folder.join(file.name())
}
