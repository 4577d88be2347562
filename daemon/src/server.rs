//! Serving gRPC.

use std::convert::Infallible;
use std::time::Duration;

use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::authenticate::Authenticate;
use crate::connection::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::incoming::Incoming;
use crate::{Diagnostics, Error, Listener};

/// How long a silent connection stays unquestioned, and how long the peer may take
/// to answer (HTTP/2 PING). One that vanished without a word is noticed so.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long calls under way may go on after the program was told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Serves until told to stop ([`Diagnostics::shutdown`]), beside `routes` the health
/// service, and counts the calls. Then lets the calls that are under way finish, for
/// ten seconds: a client that neither ends its call nor reads its answer must not
/// keep the program from ending. Connections that are left then end with the
/// program.
///
/// # Errors
/// The server cannot be built. A connection that fails ends alone.
pub async fn serve(
    listener: Listener,
    routes: Routes,
    diagnostics: Diagnostics,
) -> Result<(), Error> {
    let stopping = diagnostics.shutdown().clone();
    let expired = async move {
        stopping.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = serve_to_the_end(listener, routes, diagnostics) => served,
        () = expired => {
            tracing::warn!("calls are still under way, and are given up");
            Ok(())
        }
    }
}

/// As [`serve`], but calls under way finish however long they take: for a program
/// whose peers, and nobody else, decide when work is to be cut short.
///
/// # Errors
/// As [`serve`].
pub async fn serve_to_the_end(
    listener: Listener,
    routes: Routes,
    diagnostics: Diagnostics,
) -> Result<(), Error> {
    let shutdown = diagnostics.shutdown().clone();
    let health = HealthReporter::new();
    let told = listener.reception.health_check_service.clone();
    let names = std::iter::once(String::new()).chain(told).collect();
    let routes = routes.add_service(HealthServer::new(HealthService::from_health_reporter(
        health.clone(),
    )));
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(listener.reception.maximum_calls)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        // Clients that drop a finished stream reset it. The library takes a burst
        // of those for an attack and closes the connection, unless allowed more.
        .http2_max_pending_accept_reset_streams(Some(16_384))
        .http2_max_local_error_reset_streams(Some(16_384))
        .layer(diagnostics.grpc().clone())
        .layer(Authenticate(listener.reception.policy.clone()))
        .add_routes(routes)
        .serve_with_incoming_shutdown(Incoming::new(listener), async move {
            shutdown.cancelled().await;
        });
    tokio::select! {
        served = server => served.map_err(Error::from),
        never = tell_health(health, names, &diagnostics) => match never {},
    }
}

/// Has the health service (`grpc.health.v1`) tell whether the program is ready. Once
/// it stops nothing is told any more, which ends the calls of those who watch.
async fn tell_health(
    mut health: HealthReporter,
    names: Vec<String>,
    diagnostics: &Diagnostics,
) -> Infallible {
    loop {
        let ready = diagnostics.is_ready();
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for name in &names {
            health.set_service_status(name, status).await;
        }
        tokio::select! {
            () = diagnostics.changed(ready) => {}
            () = diagnostics.shutdown().cancelled() => {
                for name in &names {
                    health.clear_service_status(name).await;
                }
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, connect, listen};
    use proto::wire::runner::runner_client::RunnerClient;
    use proto::wire::runner::runner_server::{Runner, RunnerServer};
    use proto::wire::runner::{CheckReadinessRequest, RunRequest, RunResponse};
    use std::sync::Arc;
    use tokio::sync::Notify;
    use tonic::{Request, Response, Status};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus as wire;
    use tonic_health::pb::health_client::HealthClient;

    /// Answers how many arguments there were; without any it says so here and never
    /// answers.
    #[derive(Default)]
    struct Echo(Arc<Notify>);

    #[tonic::async_trait]
    impl Runner for Echo {
        async fn check_readiness(
            &self,
            _: Request<CheckReadinessRequest>,
        ) -> Result<Response<()>, Status> {
            Ok(Response::new(()))
        }

        async fn run(&self, request: Request<RunRequest>) -> Result<Response<RunResponse>, Status> {
            let arguments = request.into_inner().arguments.len();
            if arguments == 0 {
                self.0.notify_one();
                std::future::pending::<()>().await;
            }
            Ok(Response::new(RunResponse {
                exit_code: i64::try_from(arguments).unwrap(),
                resource_usage: Vec::new(),
            }))
        }
    }

    async fn call(listener: Listener, address: &Address) {
        let diagnostics = Diagnostics::default();
        let routes = Routes::new(RunnerServer::new(Echo::default()));
        let server = tokio::spawn(serve(listener, routes, diagnostics.clone()));
        let mut client = RunnerClient::new(connect(address).unwrap());
        let request = RunRequest {
            arguments: vec!["a".into(), "b".into()],
            ..Default::default()
        };
        let response = client.run(request).await.unwrap();
        assert_eq!(response.into_inner().exit_code, 2);
        drop(client);
        diagnostics.shutdown().cancel();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_call_passes_over_tcp() {
        let listener = listen(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_address().parse().unwrap();
        call(listener, &address).await;
    }

    #[tokio::test]
    async fn a_call_passes_over_a_unix_socket_and_a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("socket"));
        for _ in 0..2 {
            let listener = listen(&address).await.unwrap();
            call(listener, &address).await;
        }
        let _listener = listen(&address).await.unwrap();
        assert!(listen(&address).await.is_err(), "a live socket is kept");
    }

    #[tokio::test]
    async fn calls_beyond_a_connections_share_wait_and_other_connections_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let endpoint = serde_json::json!({
            "listen_paths": [path], "maximum_calls_per_connection": 1,
        });
        let endpoint: crate::Endpoint = serde_json::from_value(endpoint).unwrap();
        let listener = endpoint.listen().unwrap().remove(0);
        let called = Arc::new(Notify::new());
        let routes = Routes::new(RunnerServer::new(Echo(called.clone())));
        let diagnostics = Diagnostics::default();
        let server = tokio::spawn(serve(listener, routes, diagnostics));
        let address = Address::Unix(path);
        let client = RunnerClient::new(connect(&address).unwrap());
        let mut first = client.clone();
        let never = tokio::spawn(async move { first.run(RunRequest::default()).await });
        called.notified().await;
        let mut second = client.clone();
        let second = tokio::spawn(async move {
            second
                .check_readiness(CheckReadinessRequest::default())
                .await
        });
        for _ in 0..20 {
            let mut other = RunnerClient::new(connect(&address).unwrap());
            let answered = other.check_readiness(CheckReadinessRequest::default());
            answered.await.unwrap();
        }
        assert!(!second.is_finished());
        never.abort();
        second.await.unwrap().unwrap();
        server.abort();
    }

    #[tokio::test]
    async fn a_call_that_never_ends_does_not_keep_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("socket"));
        let listener = listen(&address).await.unwrap();
        let diagnostics = Diagnostics::default();
        let called = Arc::new(Notify::new());
        let routes = Routes::new(RunnerServer::new(Echo(called.clone())));
        let server = tokio::spawn(serve(listener, routes, diagnostics.clone()));
        let mut client = RunnerClient::new(connect(&address).unwrap());
        let never = tokio::spawn(async move { client.run(RunRequest::default()).await });
        called.notified().await;
        diagnostics.shutdown().cancel();
        // The grace passes on the virtual clock.
        tokio::time::pause();
        server.await.unwrap().unwrap();
        never.abort();
    }

    #[tokio::test]
    async fn health_is_told_by_grpc_and_calls_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("socket"));
        let diagnostics = Diagnostics::default();
        let routes = Routes::new(RunnerServer::new(Echo::default()));
        let listener = listen(&address).await.unwrap();
        let server = tokio::spawn(serve(listener, routes, diagnostics.clone()));
        let channel = connect(&address).unwrap();
        let mut health = HealthClient::new(channel.clone());
        let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap();
        let mut told = async || watch.get_mut().message().await.unwrap();
        assert_eq!(told().await.unwrap().status(), wire::NotServing);
        diagnostics.ready(true);
        assert_eq!(told().await.unwrap().status(), wire::Serving);
        let check = health.check(HealthCheckRequest::default()).await.unwrap();
        assert_eq!(check.into_inner().status(), wire::Serving);

        let mut client = RunnerClient::new(channel.clone());
        client
            .check_readiness(CheckReadinessRequest::default())
            .await
            .unwrap();
        for name in ["Own", "Other"] {
            let path = format!("/buildbarn.runner.Runner/{name}").parse().unwrap();
            let mut grpc = tonic::client::Grpc::new(channel.clone());
            grpc.ready().await.unwrap();
            let codec = tonic_prost::ProstCodec::<(), ()>::default();
            let refused = grpc.unary(Request::new(()), path, codec).await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::Unimplemented);
        }
        let text = diagnostics.metrics().to_text();
        for line in [
            "grpc_server_handled_total{grpc_type=\"unary\",grpc_service=\"buildbarn.runner.Runner\",\
             grpc_method=\"CheckReadiness\",grpc_code=\"OK\"} 1",
            "grpc_server_handled_total{grpc_type=\"unary\",grpc_service=\"unknown\",\
             grpc_method=\"unknown\",grpc_code=\"Unimplemented\"} 2",
            "grpc_server_started_total{grpc_type=\"server_stream\",\
             grpc_service=\"grpc.health.v1.Health\",grpc_method=\"Watch\"} 1",
            "grpc_server_handling_seconds_count{grpc_type=\"unary\",\
             grpc_service=\"buildbarn.runner.Runner\",grpc_method=\"CheckReadiness\"} 1",
        ] {
            assert!(text.contains(line), "{line}\nis not in\n{text}");
        }
        assert!(!text.contains("Other"), "{text}");

        // A call that only watches keeps no program from stopping.
        diagnostics.shutdown().cancel();
        while told().await.is_some() {}
        drop((client, health, channel));
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_descriptor_that_was_not_passed_is_refused() {
        assert!(matches!(
            listen(&Address::Inherited(9)).await,
            Err(Error::NotInherited(9))
        ));
    }
}
