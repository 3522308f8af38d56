//! `[http]` of `config.toml`.

use std::net::{Ipv4Addr, SocketAddr};

use serde::Deserialize;

/// Settings of HTTP over TCP. The Unix socket has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpConfig {
    /// Where to listen; nowhere when absent.
    pub listen: Option<SocketAddr>,
    /// Whether the daemon was started to listen there, and is of no use without.
    pub is_demanded: bool,
    /// What a caller must show.
    pub auth: HttpAuth,
    /// What `Host` may say besides this machine's own names: `name`, with any port, or `name:port`.
    pub allowed_hosts: Vec<String>,
    /// The origins whose pages a browser lets read answers; `*` is every one, and wants the token.
    pub cors_origins: Vec<String>,
}

/// What a caller over TCP must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpAuth {
    /// The token of `http.token` in the Ingle folder.
    #[default]
    Token,
    /// Nothing.
    None,
}

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
    pub(super) fn settings(self) -> Result<HttpConfig, String> {
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
        HttpConfig {
            listen: listen.transpose()?,
            is_demanded: false,
            auth: self.auth,
            allowed_hosts: self.allowed_hosts,
            cors_origins: self.cors_origins,
        }
        .checked()
    }
}

impl HttpConfig {
    /// The same with another address, which must be had.
    ///
    /// # Errors
    /// As for the settings of the file.
    pub fn listening_at(self, listen: SocketAddr) -> Result<Self, String> {
        Self { listen: Some(listen), is_demanded: true, ..self }.checked()
    }

    /// Nobody but this machine's own users may talk to a daemon that asks for nothing, and no page
    /// that one of them happens to look at.
    fn checked(self) -> Result<Self, String> {
        let is_open = self.auth == HttpAuth::None;
        if is_open && self.cors_origins.iter().any(|origin| origin == "*") {
            return Err(
                "http.auth is \"none\" and http.cors_origins has \"*\", so that any page in a \
                        browser could use the daemon; name the origins, or leave http.auth at \
                        \"token\""
                    .to_owned(),
            );
        }
        match self.listen {
            Some(listen) if is_open && !listen.ip().is_loopback() => Err(format!(
                "http.auth is \"none\" and http.listen is {listen}, which other machines can \
                     reach; listen at 127.0.0.1, or leave http.auth at \"token\""
            )),
            _ => Ok(self),
        }
    }
}

/// `address:port`; `localhost` is 127.0.0.1.
#[must_use]
pub fn address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some((Ipv4Addr::LOCALHOST, port.parse::<u16>().ok()?).into()),
        None => text.parse().ok(),
    }
}
