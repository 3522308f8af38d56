//! HTTP listeners and connections, on the Unix socket and on TCP.
//!
//! Owns binding, the check of the peer's user, the limits on connections and their time, and the
//! drain. Does not know paths.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::limits;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ingle_client::paths::{Paths, SOCKET_PATH_BYTES};
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::status::HttpStatus;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::Api;
use super::middleware::{ListenerKind, Middleware};
use super::problem::Problem;
use super::token::Token;
use crate::settings::{HttpAuth, HttpSettings};
use ingle_service::Service;
use ingle_service::metrics::Edge;

/// Bound listeners that do not accept connections yet.
#[derive(Debug)]
pub struct HttpListeners {
    socket: Option<UnixListener>,
    tcp: Option<(TcpListener, ListenerKind)>,
    settings: Arc<HttpSettings>,
    status: HttpStatus,
}

impl HttpListeners {
    /// Binds the Unix socket and, if the settings have an address, a TCP port with its token.
    ///
    /// The caller holds the daemon lock and has removed a stale socket. If the address of the
    /// settings cannot be bound, the status reports it and the daemon runs without: its other
    /// clients do not need that address.
    ///
    /// # Errors
    /// `DAEMON_UNAVAILABLE` with the socket, the demanded address or the token's file, and the
    /// cause.
    pub async fn bind(paths: &Paths, settings: HttpSettings) -> Result<Self, ErrorBody> {
        let path = paths.http_socket();
        let mut status = HttpStatus::default();
        let socket = if path.as_os_str().len() < SOCKET_PATH_BYTES {
            let listener =
                bind_socket(&path).map_err(|error| file_error("listen at", &path, &error))?;
            status.socket = Some(path.display().to_string());
            Some(listener)
        } else {
            // The daemon works without this socket.
            tracing::warn!(path = %path.display(), "no HTTP socket: its path is too long");
            None
        };
        let tcp = match settings.listen {
            None => None,
            Some(listen) => match bind_tcp(listen, paths, settings.auth, &mut status).await {
                Ok(bound) => Some(bound),
                Err(error) if settings.is_demanded => return Err(error),
                Err(error) => {
                    tracing::warn!(%listen, error = error.message, "no HTTP over TCP");
                    status.problem = Some(format!("{}. {}", error.message, error.remediation()));
                    None
                }
            },
        };
        Ok(Self { socket, tcp, settings: Arc::new(settings), status })
    }

    /// The bound addresses.
    #[must_use]
    pub fn status(&self) -> &HttpStatus {
        &self.status
    }

    /// Accepts connections until the daemon drains.
    pub async fn accept(self, service: Arc<Service>, shutdown: Shutdown) {
        let api = Arc::new(Api::new(Arc::clone(&service), shutdown.tracker.clone()));
        let server = |kind| {
            let middleware =
                Middleware::new(Arc::clone(&service), Arc::clone(&self.settings), kind);
            Server {
                router: super::router(Arc::clone(&api), middleware),
                service: Arc::clone(&service),
                shutdown: shutdown.clone(),
                connections: Arc::new(Semaphore::new(limits::HTTP_CONNECTIONS)),
                refusals: Arc::new(Semaphore::new(limits::HTTP_REFUSALS)),
            }
        };
        let socket = async {
            if let Some(listener) = self.socket {
                let server = server(ListenerKind::Unix);
                let next = || async { listener.accept().await.map(|(stream, _)| stream) };
                server.accept(next, is_same_user).await;
            }
        };
        let tcp = async {
            if let Some((listener, kind)) = self.tcp {
                let server = server(kind);
                let next = || async { listener.accept().await.map(|(stream, _)| stream) };
                // Events of streams are small and must be sent without delay.
                server.accept(next, |stream| stream.set_nodelay(true).is_ok()).await;
            }
        };
        tokio::join!(socket, tcp);
        // Without the file, new clients see that no daemon runs. The next daemon waits for this one
        // to end before it binds, so the file is still ours.
        if let Some(path) = &self.status.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// How connections end when the daemon shuts down.
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// Ends every connection at once.
    pub closing: CancellationToken,
    /// Connections and streams that have not ended.
    pub tracker: TaskTracker,
}

/// State of one listener's connections.
struct Server {
    router: Router,
    service: Arc<Service>,
    shutdown: Shutdown,
    /// A permit per connection.
    connections: Arc<Semaphore>,
    /// A permit per connection over the limit that still gets a refusal.
    refusals: Arc<Semaphore>,
}

impl Server {
    /// Accepts the connections that `next` returns and `is_allowed` lets through.
    async fn accept<S, F>(&self, next: impl Fn() -> F, is_allowed: impl Fn(&S) -> bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = io::Result<S>>,
    {
        loop {
            let accepted = tokio::select! {
                () = self.service.draining().cancelled() => return,
                accepted = next() => accepted,
            };
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    // The daemon is out of descriptors, most likely; they return as connections
                    // end.
                    tracing::warn!(%error, "cannot accept an HTTP connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if !is_allowed(&stream) {
                tracing::warn!("refused an HTTP connection");
                continue;
            }
            match Arc::clone(&self.connections).try_acquire_owned() {
                Ok(permit) => {
                    let (router, service) = (self.router.clone(), Arc::clone(&self.service));
                    let closing = self.shutdown.closing.clone();
                    self.shutdown.tracker.spawn(async move {
                        serve(stream, router, &service, &closing).await;
                        drop(permit);
                    });
                }
                Err(_) => {
                    self.service.metrics().connection_refused(Edge::Http);
                    if let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() {
                        let response = too_many_connections(&self.service.next_request_id());
                        self.shutdown.tracker.spawn(async move {
                            let limit = Duration::from_millis(limits::HTTP_REFUSAL_MS);
                            let _ = tokio::time::timeout(limit, refuse(stream, &response)).await;
                            drop(permit);
                        });
                    }
                }
            }
        }
    }
}

/// Serves one connection until it ends. During a drain it finishes its current request.
async fn serve<S>(stream: S, router: Router, service: &Service, closing: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = with_write_timeout(stream);
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(limits::HTTP_HEADER_MS))
            .max_buf_size(limits::HTTP_HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    let _connected = service.metrics().connected(Edge::Http);
    let mut is_ending = false;
    loop {
        tokio::select! {
            // The connection is done, or failed: the client left, or did not read in time.
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "an HTTP connection failed");
                }
                break;
            }
            // The daemon drains: no further request is read. This branch runs once, because the
            // token stays cancelled.
            () = service.draining().cancelled(), if !is_ending => {
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            }
            // The drain's time is over: the connection is dropped, and its request with it.
            () = closing.cancelled() => break,
        }
    }
}

/// The response to a connection over the limit. Its request is not read.
fn too_many_connections(id: &str) -> Vec<u8> {
    let message = format!("the limit of {} HTTP connections is reached", limits::HTTP_CONNECTIONS);
    Problem::from(ErrorBody::overloaded(message)).into_bytes(id)
}

/// A stream on which a write fails when the client reads nothing for
/// [`limits::WRITE_STALL_MS`]. Without this bound, a client that stops reading would hold its
/// generation's permit until the request's own timeout. Reads have other limits.
fn with_write_timeout<S: AsyncRead + AsyncWrite>(stream: S) -> Pin<Box<TimeoutWriter<S>>> {
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(Duration::from_millis(limits::WRITE_STALL_MS)));
    Box::pin(stream)
}

/// Sends `response` and closes the connection. The rest of the request is read and discarded first:
/// closing a socket with unread bytes resets the connection, and the client might lose the
/// response.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, response: &[u8]) {
    // The client may have disconnected; then the response has no reader.
    let _ = stream.write_all(response).await;
    let _ = stream.shutdown().await;
    let mut rest = stream.take(limits::HTTP_REFUSAL_BYTES);
    let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
}

/// Binds the socket with mode 0600. The process's umask keeps it private until the mode is set.
fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn is_same_user(stream: &UnixStream) -> bool {
    let user = rustix::process::geteuid().as_raw();
    // Root is not kept out: it could read the daemon's memory anyway.
    stream.peer_cred().is_ok_and(|peer| peer.uid() == user || peer.uid() == 0)
}

fn file_error(action: &str, path: &Path, error: &io::Error) -> ErrorBody {
    let message = format!("cannot {action} `{}`: {error}", path.display());
    ErrorBody::new(ErrorCode::DaemonUnavailable, message)
        .with_remediation("Check the file's owner and permissions, and the disk's free space.")
}

/// Binds a TCP port, and reads or creates its token.
async fn bind_tcp(
    listen: SocketAddr,
    paths: &Paths,
    auth: HttpAuth,
    status: &mut HttpStatus,
) -> Result<(TcpListener, ListenerKind), ErrorBody> {
    let file = paths.http_token();
    let token = match auth {
        HttpAuth::None => None,
        HttpAuth::Token => Some(
            Token::load_or_create(&file)
                .map_err(|error| file_error("use the token in", &file, &error))?,
        ),
    };
    let bound = async {
        let listener = TcpListener::bind(listen).await?;
        let listen = listener.local_addr()?;
        Ok((listener, listen))
    };
    let (listener, listen) = bound.await.map_err(|error| address_error(listen, &error))?;
    status.url = Some(format!("http://{listen}/v1"));
    status.token_file = token.as_ref().map(|_| file.display().to_string());
    tracing::info!(%listen, "listening for HTTP over TCP");
    Ok((listener, ListenerKind::Tcp { address: listen, token }))
}

fn address_error(listen: SocketAddr, error: &io::Error) -> ErrorBody {
    let message = format!("cannot listen for HTTP at {listen}: {error}");
    ErrorBody::new(ErrorCode::DaemonUnavailable, message).with_remediation(
        "End the program that listens there, or set another `http.listen` in config.toml (port 0 \
         takes any free one), then run `ingle restart`.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stalled_reader_times_out_and_slow_one_does_not() {
        let within = Duration::from_millis(limits::WRITE_STALL_MS - 1_000);
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = with_write_timeout(near);
        let reading = tokio::spawn(async move {
            let mut buffer = [0; 16];
            for _ in 0..4 {
                tokio::time::sleep(within).await;
                far.read_exact(&mut buffer).await.unwrap();
            }
            far
        });
        near.write_all(&[0; 64]).await.unwrap();
        let _far = reading.await.unwrap();
        let error = near.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    /// A client that sends nothing is bounded by the header's time, not by the write's.
    #[tokio::test(start_paused = true)]
    async fn write_timeout_does_not_bound_reads() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = with_write_timeout(near);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(2 * limits::WRITE_STALL_MS)).await;
            far.write_all(b"x").await.unwrap();
            far
        });
        assert_eq!(near.read_u8().await.unwrap(), b'x');
    }
}
