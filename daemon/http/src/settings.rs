//! Settings of HTTP over TCP: address, authentication, allowed hosts and origins.

use std::net::{Ipv4Addr, SocketAddr};

use serde::Deserialize;

/// Settings of HTTP over TCP. The Unix socket has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpSettings {
    /// The address to listen at; no TCP when absent.
    pub listen: Option<SocketAddr>,
    /// Whether the daemon was started for this address, and must fail without it.
    pub is_demanded: bool,
    /// How clients authenticate.
    pub auth: HttpAuth,
    /// Further allowed values of `Host`: `name`, with any port, or `name:port`.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may read responses; `*` is every origin, and requires the token.
    pub cors_origins: Vec<String>,
}

/// How clients authenticate over TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpAuth {
    /// By the bearer token of the file `http.token` in the Ingle folder.
    #[default]
    Token,
    /// Not at all.
    None,
}

impl HttpSettings {
    /// The same settings with another address, which the daemon must bind.
    ///
    /// # Errors
    /// As [`Self::checked`].
    pub fn listening_at(self, listen: SocketAddr) -> Result<Self, String> {
        Self { listen: Some(listen), is_demanded: true, ..self }.checked()
    }

    /// The settings, if they are safe together. Without authentication, only users of this machine
    /// may reach the daemon, and not every web page that they open.
    ///
    /// # Errors
    /// The settings that contradict each other.
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

/// Parses `address:port`; `localhost` is 127.0.0.1.
#[must_use]
pub fn address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some((Ipv4Addr::LOCALHOST, port.parse::<u16>().ok()?).into()),
        None => text.parse().ok(),
    }
}
