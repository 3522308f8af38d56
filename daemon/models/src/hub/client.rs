//! HTTP client of the hub.
//!
//! Owns redirects and the use of the token: only the hub's own address gets it, and unencrypted only a
//! hub on this machine. Every wait has a timeout. Does not know files on disk.

use reqwest::header::{ETAG, HeaderMap, IF_RANGE, LOCATION, RANGE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;

use crate::limits;

use super::error::HubError;
use super::select::RemoteFile;
use super::{HubSetup, Secret};

/// A client for one hub.
pub(super) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    token: Option<Secret>,
}

/// The point from which to resume a file.
#[derive(Debug, Default)]
pub(super) struct Resume {
    /// Number of bytes on disk.
    pub(super) from: u64,
    /// The host that sent them, and their entity tag, which shows whether the file has changed.
    pub(super) tag: Option<(String, String)>,
}

/// The response to a request for a file.
pub(super) struct FileResponse {
    pub(super) http: Response,
    /// The host that sends the bytes.
    pub(super) host: String,
    /// The hash that the hub itself sent before a redirect.
    pub(super) linked: Option<String>,
}

impl FileResponse {
    /// The entity tag, if it is a strong one: equal tags mean equal bytes.
    pub(super) fn strong_tag(&self) -> Option<String> {
        let tag = self.http.headers().get(ETAG)?.to_str().ok()?;
        (tag.starts_with('"') && tag.len() <= 256).then(|| tag.to_owned())
    }
}

/// The hub's description of a repository at one revision.
#[derive(Deserialize)]
struct RepoInfo {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Client {
    /// Creates a client. It connects at its first request.
    pub(super) fn new(setup: &HubSetup, token: Option<Secret>) -> Result<Self, HubError> {
        let bad = || HubError::Endpoint { endpoint: setup.endpoint.clone() };
        let endpoint = Url::parse(&setup.endpoint).map_err(|_| bad())?;
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host_str().is_none() {
            return Err(bad());
        }
        // rustls takes its cryptography from the process. A second call has no effect.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("ingle/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(setup.stall)
            .read_timeout(setup.stall)
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&endpoint) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| unreachable(&endpoint, error))?;
        Ok(Self { http, endpoint, token })
    }

    /// Whether the client sends a token.
    fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The repository's commit at `revision`, and its files.
    pub(super) async fn files(
        &self,
        repo: &str,
        revision: &str,
    ) -> Result<(String, Vec<RemoteFile>), HubError> {
        let mut url = self.url(&["api", "models"], &[repo, "revision", revision]);
        url.set_query(Some("blobs=true"));
        let response = self.get(url, &Resume::default(), repo, revision).await?;
        let wrong = |reason: &str| HubError::InvalidResponse {
            host: response.host.clone(),
            reason: reason.into(),
        };
        let mut http = response.http;
        let mut body = Vec::new();
        while let Some(chunk) = http.chunk().await.map_err(|error| lost(&response.host, error))? {
            body.extend_from_slice(&chunk);
            if body.len() > limits::HUB_LIST_BYTES {
                return Err(wrong("a file list that is too long"));
            }
        }
        let info: RepoInfo = serde_json::from_slice(&body)
            .map_err(|error| wrong(&format!("an invalid file list: {error}")))?;
        if info.sha.len() != 40 || !is_hex(&info.sha) {
            return Err(wrong("a file list without a commit"));
        }
        let files = info.siblings.into_iter().map(|file| {
            let (sha256, lfs_size) = file.lfs.map_or((None, None), |lfs| (lfs.sha256, lfs.size));
            let is_hash = |hash: &String| hash.len() == 64 && is_hex(hash);
            RemoteFile {
                path: file.rfilename,
                size_bytes: lfs_size.or(file.size),
                sha256: sha256.filter(is_hash).map(|hash| hash.to_ascii_lowercase()),
            }
        });
        Ok((info.sha.to_ascii_lowercase(), files.collect()))
    }

    /// Requests the bytes of a file from the point of `resume`.
    pub(super) async fn file(
        &self,
        repo: &str,
        commit: &str,
        path: &str,
        resume: &Resume,
    ) -> Result<FileResponse, HubError> {
        self.get(self.url(&[], &[repo, "resolve", commit, path]), resume, repo, commit).await
    }

    /// The address of a repository's web page.
    fn page(&self, repo: &str) -> String {
        self.url(&[], &[repo]).to_string()
    }

    /// An address below the hub's. A `/` in a part separates two segments.
    fn url(&self, first: &[&str], parts: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(first);
            for part in parts {
                segments.extend(part.split('/'));
            }
        }
        url
    }

    /// Sends a request and follows redirects.
    async fn get(
        &self,
        mut url: Url,
        resume: &Resume,
        repo: &str,
        revision: &str,
    ) -> Result<FileResponse, HubError> {
        let mut linked = None;
        for _ in 0..=limits::HUB_REDIRECTS {
            let host = host_of(&url);
            let mut request = self.http.get(url.clone());
            if let Some(token) = self.token.as_ref().filter(|_| self.may_see_token(&url)) {
                request = request.bearer_auth(&token.0);
            }
            if resume.from > 0 {
                request = request.header(RANGE, format!("bytes={}-", resume.from));
                // An entity tag is valid only for the server that sent it.
                if let Some((_, tag)) = resume.tag.as_ref().filter(|(from, _)| *from == host) {
                    request = request.header(IF_RANGE, tag);
                }
            }
            let response = request.send().await.map_err(|error| unreachable(&url, error))?;
            linked = linked.or_else(|| linked_hash(response.headers()));
            if !response.status().is_redirection() {
                self.check(&response, &host, repo, revision)?;
                return Ok(FileResponse { http: response, host, linked });
            }
            let wrong = |reason: &str| HubError::InvalidResponse {
                host: host.clone(),
                reason: reason.into(),
            };
            let target = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let target = target.and_then(|to| url.join(to).ok());
            let target = target.ok_or_else(|| wrong("a redirect without a valid target"))?;
            let is_allowed = match target.scheme() {
                "https" => true,
                "http" => url.scheme() == "http",
                _ => false,
            };
            if !is_allowed {
                return Err(wrong("a redirect to an address that is not secure"));
            }
            url = target;
        }
        Err(HubError::InvalidResponse {
            host: host_of(&url),
            reason: "too many redirects".to_owned(),
        })
    }

    /// Whether `url` is the hub's own address, reached by HTTPS or on this machine.
    fn may_see_token(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin() && (url.scheme() == "https" || is_loopback(url))
    }

    /// Turns an error status into an error.
    fn check(
        &self,
        response: &Response,
        host: &str,
        repo: &str,
        revision: &str,
    ) -> Result<(), HubError> {
        let status = response.status();
        let code = response.headers().get("x-error-code").and_then(|code| code.to_str().ok());
        match (status, code) {
            // A range past the end of a file is not an error: `receive` reads the status.
            (
                StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE,
                _,
            ) => Ok(()),
            (StatusCode::NOT_FOUND, Some("RevisionNotFound")) => {
                Err(HubError::NotFound { what: format!("revision `{revision}` of `{repo}`") })
            }
            (StatusCode::NOT_FOUND, Some("EntryNotFound")) => {
                let reason = format!("no content for a file that it lists in `{repo}`");
                Err(HubError::InvalidResponse { host: host.to_owned(), reason })
            }
            (StatusCode::NOT_FOUND, _) => {
                Err(HubError::NotFound { what: format!("model `{repo}`") })
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _)
                if *host == host_of(&self.endpoint) =>
            {
                Err(HubError::Denied {
                    repo: repo.to_owned(),
                    page: self.page(repo),
                    status: status.as_u16(),
                    has_token: self.has_token(),
                })
            }
            _ => Err(HubError::Status { host: host.to_owned(), status: status.as_u16() }),
        }
    }
}

/// The error for a connection that ended in the middle of a response.
pub(super) fn lost(host: &str, error: reqwest::Error) -> HubError {
    HubError::Unreachable { host: host.to_owned(), reason: reason(error) }
}

fn unreachable(url: &Url, error: reqwest::Error) -> HubError {
    HubError::Unreachable { host: host_of(url), reason: reason(error) }
}

/// The innermost cause, which is the most specific; without the address, which can hold a signature.
fn reason(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not respond in time".to_owned();
    }
    let error = error.without_url();
    let mut inner: &dyn std::error::Error = &error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// Host and port.
fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// The SHA-256 that the hub gives for a large file.
fn linked_hash(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get("x-linked-etag")?.to_str().ok()?;
    let hash = tag.trim_start_matches("W/").trim_matches('"');
    (hash.len() == 64 && is_hex(hash)).then(|| hash.to_ascii_lowercase())
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
