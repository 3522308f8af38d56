//! Listening for HTTP: the Unix socket and TCP.
//!
//! Owns binding, the check of the peer's user, the limits on connections and their time, and the
//! drain. Knows nothing of what is asked.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
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
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Edge;
use super::gate::{Gate, Via};
use super::problem::Problem;
use super::stall::Impatient;
use super::token::Token;
use crate::settings::{HttpAuth, HttpSettings};
use ingle_service::Service;
use ingle_service::metrics::Edge as Counted;

/// The listeners, bound and not yet accepting.
#[derive(Debug)]
pub struct Bound {
    socket: Option<UnixListener>,
    tcp: Option<(TcpListener, Via)>,
    settings: Arc<HttpSettings>,
    status: HttpStatus,
}

impl Bound {
    /// Binds the Unix socket and, where the settings say so, a TCP port with its token. The caller
    /// holds the daemon lock and has removed a stale socket. An address of the settings that cannot be
    /// had is reported in the status: the daemon's other callers do not need it.
    ///
    /// # Errors
    /// `DAEMON_UNAVAILABLE` naming the socket, the address that was demanded or its token's file, and
    /// why.
    pub async fn bind(paths: &Paths, settings: HttpSettings) -> Result<Self, ErrorBody> {
        let path = paths.http_socket();
        let mut status = HttpStatus::default();
        let socket = if path.as_os_str().len() < SOCKET_PATH_BYTES {
            let listener =
                bind_socket(&path).map_err(|error| cannot("listen at", &path, &error))?;
            status.socket = Some(path.display().to_string());
            Some(listener)
        } else {
            // Everything else works all the same.
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

    /// Where it was bound to.
    #[must_use]
    pub fn status(&self) -> &HttpStatus {
        &self.status
    }

    /// Accepts connections until the daemon drains.
    pub async fn accept(self, service: Arc<Service>, ends: Ends) {
        let edge = Arc::new(Edge::new(Arc::clone(&service), ends.tracker.clone()));
        let server = |via| {
            let gate = Gate::new(Arc::clone(&service), Arc::clone(&self.settings), via);
            Server {
                router: super::router(Arc::clone(&edge), gate),
                service: Arc::clone(&service),
                ends: ends.clone(),
                slots: Arc::new(Semaphore::new(limits::HTTP_CONNECTIONS)),
                refusals: Arc::new(Semaphore::new(limits::HTTP_REFUSALS)),
            }
        };
        let socket = async {
            if let Some(listener) = self.socket {
                let server = server(Via::Socket);
                let next = || async { listener.accept().await.map(|(stream, _)| stream) };
                server.accept(next, is_same_user).await;
            }
        };
        let tcp = async {
            if let Some((listener, via)) = self.tcp {
                let server = server(via);
                let next = || async { listener.accept().await.map(|(stream, _)| stream) };
                // Events are small and must go out at once.
                server.accept(next, |stream| stream.set_nodelay(true).is_ok()).await;
            }
        };
        tokio::join!(socket, tcp);
        // Whoever comes now sees that there is no daemon. The next one waits for ours to end, so the
        // file is ours still.
        if let Some(path) = &self.status.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What ends connections.
#[derive(Debug, Clone)]
pub struct Ends {
    /// Ends every connection at once.
    pub closing: CancellationToken,
    /// Connections and streams not ended yet.
    pub tracker: TaskTracker,
}

/// One listener's side of every connection.
struct Server {
    router: Router,
    service: Arc<Service>,
    ends: Ends,
    slots: Arc<Semaphore>,
    /// Of connections past those.
    refusals: Arc<Semaphore>,
}

impl Server {
    async fn accept<S, F>(&self, next: impl Fn() -> F, is_welcome: impl Fn(&S) -> bool)
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
                    // Out of descriptors, most likely: it passes when a connection ends.
                    tracing::warn!(%error, "an HTTP connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if !is_welcome(&stream) {
                tracing::warn!("an HTTP connection was refused");
                continue;
            }
            match Arc::clone(&self.slots).try_acquire_owned() {
                Ok(slot) => {
                    let (router, service) = (self.router.clone(), Arc::clone(&self.service));
                    let closing = self.ends.closing.clone();
                    self.ends.tracker.spawn(async move {
                        serve(stream, router, &service, &closing).await;
                        drop(slot);
                    });
                }
                Err(_) => {
                    self.service.metrics().connection_refused(Counted::Http);
                    if let Ok(slot) = Arc::clone(&self.refusals).try_acquire_owned() {
                        let answer = too_many(&self.service.next_request_id());
                        self.ends.tracker.spawn(async move {
                            let limit = Duration::from_millis(limits::HTTP_REFUSAL_MS);
                            let _ = tokio::time::timeout(limit, refuse(stream, &answer)).await;
                            drop(slot);
                        });
                    }
                }
            }
        }
    }
}

/// Serves one connection until it ends. A drain lets it finish the request it has.
async fn serve<S>(stream: S, router: Router, service: &Service, closing: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = Impatient::new(stream, Duration::from_millis(limits::WRITE_STALL_MS));
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(limits::HTTP_HEADER_MS))
            .max_buf_size(limits::HTTP_HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    let _connected = service.metrics().connected(Counted::Http);
    let mut is_ending = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "an HTTP connection broke");
                }
                break;
            }
            () = service.draining().cancelled(), if !is_ending => {
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            }
            () = closing.cancelled() => break,
        }
    }
}

/// What a connection past the limit is told, without looking at what it asks.
fn too_many(id: &str) -> Vec<u8> {
    let message = format!("there are {} HTTP connections already", limits::HTTP_CONNECTIONS);
    Problem::from(ErrorBody::overloaded(message)).unasked(id)
}

/// Tells a peer `answer` and closes. What it sends is read before: closing on bytes that nobody has
/// read resets the connection, and the peer might lose the answer.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: &[u8]) {
    // The peer may have gone; then nobody needs the answer.
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
    let mut rest = stream.take(limits::HTTP_REFUSAL_BYTES);
    let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
}

/// Binds the socket with mode 0600; the process's umask keeps it private from its first moment.
fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn is_same_user(stream: &UnixStream) -> bool {
    let user = rustix::process::geteuid().as_raw();
    // Root may do anything anyway.
    stream.peer_cred().is_ok_and(|peer| peer.uid() == user || peer.uid() == 0)
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> ErrorBody {
    let message = format!("cannot {what} `{}`: {error}", path.display());
    ErrorBody::new(ErrorCode::DaemonUnavailable, message)
        .with_remediation("Check the file's owner and permissions, and the disk's free space.")
}

/// Binds a TCP port, and finds or makes the token that it wants.
async fn bind_tcp(
    listen: SocketAddr,
    paths: &Paths,
    auth: HttpAuth,
    status: &mut HttpStatus,
) -> Result<(TcpListener, Via), ErrorBody> {
    let file = paths.http_token();
    let token = match auth {
        HttpAuth::None => None,
        HttpAuth::Token => Some(
            Token::load_or_create(&file)
                .map_err(|error| cannot("use the token in", &file, &error))?,
        ),
    };
    let bound = async {
        let listener = TcpListener::bind(listen).await?;
        let listen = listener.local_addr()?;
        Ok((listener, listen))
    };
    let (listener, listen) = bound.await.map_err(|error| taken(listen, &error))?;
    status.url = Some(format!("http://{listen}/v1"));
    status.token_file = token.as_ref().map(|_| file.display().to_string());
    tracing::info!(%listen, "HTTP is spoken over TCP");
    Ok((listener, Via::Tcp { listen, token }))
}

fn taken(listen: SocketAddr, error: &io::Error) -> ErrorBody {
    let message = format!("cannot listen for HTTP at {listen}: {error}");
    ErrorBody::new(ErrorCode::DaemonUnavailable, message).with_remediation(
        "End the program that listens there, or set another `http.listen` in config.toml (port 0 \
         takes any free one), then run `ingle restart`.",
    )
}
