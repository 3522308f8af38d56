//! `[http]` of `config.toml`.

use ingle_http::settings::{HttpAuth, HttpSettings, address};
use serde::Deserialize;

/// `[http]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpTable {
    listen: Option<String>,
    #[serde(default)]
    auth: HttpAuth,
    #[serde(default)]
    allowed_hosts: Vec<String>,
    #[serde(default)]
    cors_origins: Vec<String>,
}

impl HttpTable {
    /// The settings, checked.
    pub(super) fn settings(self) -> Result<HttpSettings, String> {
        let listen = self.listen.as_deref().map(|listen| {
            address(listen).ok_or_else(|| {
                format!(
                    "http.listen is `{listen}`; it must be an address and a port, such as \
                     127.0.0.1:11711"
                )
            })
        });
        for host in &self.allowed_hosts {
            let is_fine = !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
            if !is_fine || host.starts_with(':') {
                return Err(format!(
                    "http.allowed_hosts has `{host}`; it must be a name, or a name and a port, such \
                     as my-mac.local:11711"
                ));
            }
        }
        for origin in &self.cors_origins {
            let rest = origin.split_once("://").map(|(_, rest)| rest);
            if origin != "*" && rest.is_none_or(|rest| rest.is_empty() || rest.contains('/')) {
                return Err(format!(
                    "http.cors_origins has `{origin}`; it must be an origin such as \
                     http://localhost:3000, or *"
                ));
            }
        }
        HttpSettings {
            listen: listen.transpose()?,
            is_demanded: false,
            auth: self.auth,
            allowed_hosts: self.allowed_hosts,
            cors_origins: self.cors_origins,
        }
        .checked()
    }
}
