//! TLS between a server and its clients, from configuration to call.

#![allow(clippy::unwrap_used)]

mod authority;

use std::path::Path;
use std::time::Duration;

use authority::Authority;
use daemon::{Channel, Diagnostics, Endpoint, Principal, Upstream};
use proto::wire::runner::runner_client::RunnerClient;
use proto::wire::runner::runner_server::{Runner, RunnerServer};
use proto::wire::runner::{CheckReadinessRequest, RunRequest, RunResponse};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};

/// Tells callers who they are, and which token they showed.
struct Mirror;

#[tonic::async_trait]
impl Runner for Mirror {
    async fn check_readiness(
        &self,
        request: Request<CheckReadinessRequest>,
    ) -> Result<Response<()>, Status> {
        let token = request.metadata().get("authorization");
        let token = token.map_or("", |token| token.to_str().unwrap());
        let caller = Principal::of(request.extensions());
        Err(Status::aborted(format!("{caller} {token}")))
    }

    async fn run(&self, _: Request<RunRequest>) -> Result<Response<RunResponse>, Status> {
        std::future::pending().await
    }
}

/// Serves at a TCP port, whose number it gives.
fn serve(mut endpoint: Value) -> u16 {
    endpoint["listen_addresses"] = json!(["127.0.0.1:0"]);
    let endpoint: Endpoint = serde_json::from_value(endpoint).unwrap();
    let listener = endpoint.listen().unwrap().remove(0);
    let port = listener.local_address().rsplit_once(':').unwrap().1.parse();
    let routes = Routes::new(RunnerServer::new(Mirror));
    tokio::spawn(daemon::serve(listener, routes, Diagnostics::default()));
    port.unwrap()
}

fn files(folder: &Path, name: &str) -> Value {
    json!({"files": {
        "certificate_path": folder.join(format!("{name}.pem")),
        "private_key_path": folder.join(format!("{name}.key")),
    }})
}

fn channel(port: u16, tls: Value) -> Channel {
    let upstream = json!({"address": format!("localhost:{port}"), "tls": tls});
    let upstream: Upstream = serde_json::from_value(upstream).unwrap();
    upstream.connect().unwrap()
}

async fn ask(channel: Channel) -> Status {
    let mut client = RunnerClient::new(channel);
    let asked = client.check_readiness(CheckReadinessRequest::default());
    asked.await.unwrap_err()
}

/// Calls where there is no connection to be had. A client may learn that before its
/// call is sent, or when it is not answered.
async fn not_connected(channel: Channel) {
    let status = ask(channel).await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

#[tokio::test]
async fn only_holders_of_a_certificate_are_let_in_and_services_know_who_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let authority = Authority::new(folder, "authority");
    authority.certify("server", &["localhost"]);
    authority.certify("client", &["ci.example.com"]);
    let stranger = Authority::new(folder, "stranger");
    stranger.certify("forged", &["ci.example.com"]);
    let port = serve(json!({
        "tls": {"server_key_pair": files(folder, "server")},
        "authentication_policy": {
            "tls_client_certificate": {"client_certificate_authorities": authority.pem()},
        },
    }));
    let trusted = folder.join("authority.pem");
    let with = |pair: &str| {
        json!({
            "server_certificate_authorities_path": trusted,
            "client_key_pair": files(folder, pair),
        })
    };

    let known = ask(channel(port, with("client"))).await;
    assert_eq!(known.message().trim(), "certificate:ci.example.com");
    let anonymous = json!({"server_certificate_authorities_path": trusted});
    let refused = ask(channel(port, anonymous)).await;
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("certificate"), "{refused}");
    not_connected(channel(port, with("forged"))).await;
    // Nor does a client talk to a server that it cannot know.
    let mistrusting = json!({"server_certificate_authorities_path": folder.join("stranger.pem")});
    not_connected(channel(port, mistrusting)).await;
    let mut other_name = with("client");
    other_name["server_name"] = json!("other.example.com");
    not_connected(channel(port, other_name)).await;
    // Nor in the clear.
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    not_connected(daemon::connect(&address).unwrap()).await;
}

#[tokio::test]
async fn certificates_and_tokens_are_read_again_when_they_change() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let old = Authority::new(folder, "old");
    old.certify("server", &["localhost"]);
    let new = Authority::new(folder, "new");
    let port = serve(json!({"tls": {"server_key_pair": files(folder, "server")}}));
    let trusting = |authority: &str| {
        let path = folder.join(format!("{authority}.pem"));
        channel(port, json!({"server_certificate_authorities_path": path}))
    };
    std::fs::write(folder.join("token"), "first").unwrap();
    let client = Upstream {
        bearer_token_path: Some(folder.join("token")),
        ..serde_json::from_value(json!({
            "address": format!("localhost:{port}"),
            "tls": {"server_certificate_authorities_path": folder.join("old.pem")},
        }))
        .unwrap()
    };
    let lasting = client.connect().unwrap();
    assert_eq!(
        ask(lasting.clone()).await.message(),
        "anonymous Bearer first"
    );
    assert_eq!(ask(trusting("new")).await.code(), Code::Unavailable);

    new.certify("server", &["localhost"]);
    std::fs::write(folder.join("token"), "second\n").unwrap();
    let renewed = async {
        while ask(trusting("new")).await.code() != Code::Aborted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // What is connected stays so.
        while ask(lasting.clone()).await.message() != "anonymous Bearer second" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), renewed)
        .await
        .unwrap();
    assert_eq!(ask(trusting("old")).await.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_silent_connection_keeps_nobody_waiting_and_one_too_many_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let authority = Authority::new(folder, "authority");
    authority.certify("server", &["localhost"]);
    let port = serve(json!({
        "tls": {"server_key_pair": files(folder, "server")},
        "maximum_connections": 2,
    }));
    let trusting = || {
        let path = folder.join("authority.pem");
        channel(port, json!({"server_certificate_authorities_path": path}))
    };
    let silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let first = trusting();
    assert_eq!(ask(first.clone()).await.code(), Code::Aborted);
    assert_eq!(ask(trusting()).await.code(), Code::Unavailable, "a third");
    drop(silent);
    let room = async {
        while ask(trusting()).await.code() != Code::Aborted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), room)
        .await
        .unwrap();
}
