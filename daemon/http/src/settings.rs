//! Settings of the HTTP edge.

use std::net::{Ipv4Addr, SocketAddr};

use serde::Deserialize;

/// Settings of HTTP over TCP. The Unix socket has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpSettings {
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

impl HttpSettings {
    /// The same with another address, which must be had.
    ///
    /// # Errors
    /// As for the settings of the file.
    pub fn listening_at(self, listen: SocketAddr) -> Result<Self, String> {
        Self { listen: Some(listen), is_demanded: true, ..self }.checked()
    }

    /// Nobody but this machine's own users may talk to a daemon that asks for nothing, and no page
    /// that one of them happens to look at.
    ///
    /// # Errors
    /// Names the settings that contradict each other.
    pub fn checked(self) -> Result<Self, String> {
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
