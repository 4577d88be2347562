//! What a program tells those who watch over it: metrics, whether it lives, and
//! whether it takes work.
//!
//! A program is *starting* until it says that it is ready ([`Diagnostics::ready`]),
//! then *ready* until it is told to stop, then *stopping*. `/-/healthy` answers 200
//! in all three, `/-/ready` and the gRPC health service tell *ready* from the
//! others.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_stream::StreamExt;

use crate::authenticate::AuthenticationPolicy;
use crate::endpoint::Protocol;
use crate::grpc_metrics::GrpcMetrics;
use crate::incoming::{Connection, Incoming};
use crate::listener::Socket;
use crate::process::Process;
use crate::{Endpoint, Error, Listener, Metrics, Shutdown};

/// What all programs' configurations have in common, as in Buildbarn's files
/// (bb-storage, `pkg/proto/configuration/global`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Global {
    /// Where metrics and health are told by HTTP. Absent: nowhere.
    #[serde(default)]
    pub diagnostics_http_server: Option<DiagnosticsHttpServer>,
}

/// The diagnostics server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DiagnosticsHttpServer {
    /// Where it is; port 9980 by custom. Whoever can connect reads what the program
    /// does, not what is in actions and blobs.
    pub http_servers: Vec<Endpoint>,
    /// Whether there is `/metrics`. true.
    #[serde(default = "yes")]
    pub enable_prometheus: bool,
}

fn yes() -> bool {
    true
}

/// Metrics and readiness of one program. Clones share one state.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    metrics: Metrics,
    grpc: GrpcMetrics,
    ready: watch::Sender<bool>,
    shutdown: Shutdown,
}

impl Default for Diagnostics {
    fn default() -> Self {
        Self::new(&Shutdown::new())
    }
}

impl Diagnostics {
    /// Those of a program that stops as told, which is starting.
    #[must_use]
    pub fn new(shutdown: &Shutdown) -> Self {
        let metrics = Metrics::default();
        metrics.collect(Process::starting_now());
        Self {
            grpc: GrpcMetrics::new(&metrics),
            metrics,
            ready: watch::Sender::new(false),
            shutdown: shutdown.clone(),
        }
    }

    /// As [`new`](Self::new), and tells them at the configured place from now on,
    /// until the program's end.
    ///
    /// # Errors
    /// An address cannot be listened on.
    pub fn start(global: &Global, shutdown: &Shutdown) -> Result<Self, Error> {
        let diagnostics = Self::new(shutdown);
        diagnostics.serve_on(global, global.bind()?)?;
        Ok(diagnostics)
    }

    /// Tells them at sockets that [`Global::bind`] made, from now on, until the event
    /// loop's end.
    ///
    /// # Errors
    /// The event loop does not take a socket.
    pub fn serve_on(&self, global: &Global, sockets: Vec<Socket>) -> Result<(), Error> {
        let prometheus = global
            .diagnostics_http_server
            .as_ref()
            .is_some_and(|server| server.enable_prometheus);
        for socket in sockets {
            let listener = Listener::try_from(socket).map_err(Error::Diagnostics)?;
            tracing::info!(address = listener.local_address(), "serving diagnostics");
            let router = self.router(prometheus);
            tokio::spawn(async move { axum::serve(Http::new(listener), router).await });
        }
        Ok(())
    }

    fn router(&self, prometheus: bool) -> Router {
        let ready = self.clone();
        let mut router = Router::new()
            .route("/-/healthy", get(async || "healthy\n"))
            .route(
                "/-/ready",
                get(async move || {
                    if ready.is_ready() {
                        (StatusCode::OK, "ready\n")
                    } else if ready.shutdown.is_cancelled() {
                        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
                    } else {
                        (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
                    }
                }),
            );
        if prometheus {
            let metrics = self.metrics.clone();
            router = router.route(
                "/metrics",
                get(move || std::future::ready(scrape(&metrics))),
            );
        }
        router
    }

    /// Where to register metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What counts calls.
    pub(crate) fn grpc(&self) -> &GrpcMetrics {
        &self.grpc
    }

    /// What tells the program to stop.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Says whether the program takes work.
    pub fn ready(&self, ready: bool) {
        self.ready.send_replace(ready);
    }

    /// Whether it does: it said so, and nobody told it to stop.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow() && !self.shutdown.is_cancelled()
    }

    /// Returns when [`is_ready`](Self::is_ready) is no longer `known`.
    pub(crate) async fn changed(&self, known: bool) {
        let mut ready = self.ready.subscribe();
        loop {
            if self.is_ready() != known {
                return;
            }
            tokio::select! {
                _ = ready.changed() => {}
                () = self.shutdown.cancelled() => {
                    if !known {
                        // It will not be ready any more.
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    }
}

impl Global {
    /// Makes the diagnostics server's sockets, for a program that cannot make them
    /// later.
    ///
    /// # Errors
    /// An address cannot be listened on.
    pub fn bind(&self) -> Result<Vec<Socket>, Error> {
        let mut sockets = Vec::new();
        for server in self
            .diagnostics_http_server
            .iter()
            .flat_map(|server| &server.http_servers)
        {
            sockets.extend(server.bind(Protocol::Http)?);
        }
        Ok(sockets)
    }
}

fn scrape(metrics: &Metrics) -> impl IntoResponse + use<> {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics.to_text())
}

/// Connections, as the HTTP server wants them.
struct Http {
    incoming: Incoming,
    policy: Arc<AuthenticationPolicy>,
    address: String,
}

impl Http {
    fn new(listener: Listener) -> Self {
        Self {
            address: listener.local_address(),
            policy: Arc::clone(&listener.reception.policy),
            incoming: Incoming::new(listener),
        }
    }
}

impl axum::serve::Listener for Http {
    type Io = Connection;
    type Addr = String;

    async fn accept(&mut self) -> (Connection, String) {
        loop {
            match self.incoming.next().await {
                Some(Ok(connection)) => match self.policy.principal(connection.peer()) {
                    Ok(_) => return (connection, self.address.clone()),
                    Err(reason) => tracing::debug!(reason, "a connection is refused"),
                },
                Some(Err(error)) => tracing::debug!(%error, "a connection failed at once"),
                None => std::future::pending::<()>().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<String> {
        Ok(self.address.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Address;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    async fn get(socket: &std::path::Path, path: &str) -> String {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn health_readiness_and_metrics_are_told_by_http() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let global: Global = serde_json::from_value(serde_json::json!({
            "diagnostics_http_server": {
                "http_servers": [{"listen_paths": [socket]}],
            }
        }))
        .unwrap();
        let shutdown = Shutdown::new();
        let diagnostics = Diagnostics::start(&global, &shutdown).unwrap();
        assert!(get(&socket, "/-/healthy").await.starts_with("HTTP/1.1 200"));
        assert!(get(&socket, "/-/ready").await.ends_with("starting\n"));
        diagnostics.ready(true);
        assert!(get(&socket, "/-/ready").await.starts_with("HTTP/1.1 200"));
        let metrics = get(&socket, "/metrics").await;
        assert!(metrics.contains("content-type: application/openmetrics-text"));
        assert!(metrics.contains("process_start_time_seconds"));
        shutdown.cancel();
        assert!(get(&socket, "/-/ready").await.ends_with("stopping\n"));
        assert!(get(&socket, "/-/healthy").await.starts_with("HTTP/1.1 200"));
        assert!(get(&socket, "/other").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn metrics_can_be_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let global = Global {
            diagnostics_http_server: Some(DiagnosticsHttpServer {
                http_servers: vec![Address::Unix(socket.clone()).into()],
                enable_prometheus: false,
            }),
        };
        let _kept = Diagnostics::start(&global, &Shutdown::new()).unwrap();
        assert!(get(&socket, "/metrics").await.starts_with("HTTP/1.1 404"));
    }
}
