//! A whole model from the hub: what it is, then its files, one after the other.
//!
//! Owns the two steps and the token's file. Knows nothing of callers, nor of what becomes of the
//! folder.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::limits;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::part;
use super::select::{self, RemoteFile};
use super::transfer::{self, Transfer, pause};
use super::{HubSetup, Secret};
use crate::error::PullError;
use crate::names::Reference;

pub(crate) use super::partial::{Partial, remove_stale};

/// Bytes of a token.
const TOKEN_BYTES: u64 = 4_096;
/// The revision that is meant when none is named.
const MAIN: &str = "main";

/// A model of the hub at one commit, ready to be fetched.
pub(crate) struct Remote {
    client: Client,
    repo: String,
    /// The commit, which never changes what it holds.
    pub(crate) commit: String,
    files: Vec<RemoteFile>,
}

/// Asks the hub which files of which commit make up the model that `wanted` names.
pub(crate) async fn resolve(
    setup: &HubSetup,
    wanted: &Reference,
    cancel: &CancellationToken,
) -> Result<Remote, PullError> {
    let token = {
        let setup = setup.clone();
        transfer::blocking(move || Ok(setup.token())).await?
    };
    let client = Client::new(setup, token)?;
    let revision = wanted.revision.as_deref().unwrap_or(MAIN);
    let mut fruitless = 0;
    let (commit, files) = loop {
        let answer = tokio::select! {
            () = cancel.cancelled() => return Err(PullError::Cancelled),
            answer = client.files(&wanted.repo, revision) => answer,
        };
        match answer {
            Ok(answer) => break answer,
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
        // A repository can name very many files.
        let wanted = wanted.clone();
        transfer::blocking(move || {
            Ok(select::select(&wanted.repo, files, wanted.choice.as_deref())?)
        })
        .await?
    };
    Ok(Remote { client, repo: wanted.repo.clone(), commit, files })
}

impl Remote {
    /// Bytes of all files, as far as the hub says.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.files.iter().filter_map(|file| file.size_bytes).sum()
    }

    /// Bytes of them that are in `folder` already.
    pub(crate) fn bytes_here(&self, folder: &Path) -> u64 {
        self.files.iter().map(|file| part::bytes_here(&transfer::place(folder, file))).sum()
    }

    /// Fetches what is missing in `folder`. Returns the hash of the weights if they are one file,
    /// or nothing. `report` takes the bytes that are there.
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
            let target = transfer::place(folder, file);
            // A file has its name only once it was proved.
            let here = fs::metadata(&target).map(|metadata| metadata.len()).ok();
            let is_whole = here.is_some_and(|here| file.size_bytes.is_none_or(|size| size == here));
            let sha256 = if is_whole {
                file.sha256.clone().unwrap_or_default()
            } else {
                let transfer = Transfer {
                    client: &self.client,
                    repo: &self.repo,
                    commit: &self.commit,
                    file,
                    target: target.clone(),
                    retry: setup.retry,
                    cancel,
                };
                transfer.run(&|bytes| report(done_bytes + bytes)).await?
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
    /// The token to show now. Blocks: it may read a file. Hugging Face's own login writes that
    /// file, so a login after the daemon's start counts.
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
