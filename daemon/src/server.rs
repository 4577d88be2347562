//! Serving gRPC.

use tonic::service::Routes;
use tonic::transport::Server;

use crate::connection::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::{Error, Listener, Shutdown};

/// Serves until told to stop, then finishes the calls that are under way.
///
/// # Errors
/// The server cannot be built. A connection that fails ends alone.
pub async fn serve(listener: Listener, routes: Routes, shutdown: Shutdown) -> Result<(), Error> {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // Clients that drop a finished stream reset it. The library takes a burst
        // of those for an attack and closes the connection, unless allowed more.
        .http2_max_pending_accept_reset_streams(Some(16_384))
        .http2_max_local_error_reset_streams(Some(16_384))
        .add_routes(routes)
        .serve_with_incoming_shutdown(listener, async move { shutdown.cancelled().await })
        .await
        .map_err(Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, connect, listen};
    use proto::wire::runner::runner_client::RunnerClient;
    use proto::wire::runner::runner_server::{Runner, RunnerServer};
    use proto::wire::runner::{CheckReadinessRequest, RunRequest, RunResponse};
    use tonic::{Request, Response, Status};

    struct Echo;

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
            Ok(Response::new(RunResponse {
                exit_code: i64::try_from(arguments).unwrap(),
                resource_usage: Vec::new(),
            }))
        }
    }

    async fn call(listener: Listener, address: &Address) {
        let shutdown = Shutdown::new();
        let routes = Routes::new(RunnerServer::new(Echo));
        let server = tokio::spawn(serve(listener, routes, shutdown.clone()));
        let mut client = RunnerClient::new(connect(address).unwrap());
        let request = RunRequest {
            arguments: vec!["a".into(), "b".into()],
            ..Default::default()
        };
        let response = client.run(request).await.unwrap();
        assert_eq!(response.into_inner().exit_code, 2);
        drop(client);
        shutdown.cancel();
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
    async fn a_descriptor_that_was_not_passed_is_refused() {
        assert!(matches!(
            listen(&Address::Inherited(9)).await,
            Err(Error::NotInherited(9))
        ));
    }
}
