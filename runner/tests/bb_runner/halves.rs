//! The ends of the runner itself.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::{Signal, kill};
use proto::wire::runner::CheckReadinessRequest;
use serde_json::json;
use tonic::Code;

use crate::fifo::Fifo;
use crate::harness::{each_mode, shell};

const STAY: &str = "exec 3>fifo; echo started >&3; while :; do sleep 1000; done";

/// Returns when the other end of a connection is gone.
async fn lost(mut connection: UnixStream) {
    tokio::task::spawn_blocking(move || {
        // Some bytes of the protocol may come first; a reset is an end too.
        let _ = connection.read_to_end(&mut Vec::new());
    })
    .await
    .unwrap();
}

#[test]
fn the_launcher_s_death_ends_everything() {
    each_mode(&json!({}), async |runner| {
        let fifo = Fifo::new(&runner.input("fifo"));
        let connection = UnixStream::connect(runner.socket()).unwrap();
        let mut client = runner.client();
        let call = tokio::spawn(async move { client.run(shell(STAY)).await });
        let alive = fifo.started().await;
        runner.signal(Signal::SIGKILL);
        alive.ended().await;
        lost(connection).await;
        call.await.unwrap().unwrap_err();
        assert_eq!(runner.ended().signal(), Some(9));
    });
}

#[test]
fn the_service_half_s_death_ends_everything() {
    each_mode(&json!({}), async |runner| {
        let fifo = Fifo::new(&runner.input("fifo"));
        let mut client = runner.client();
        let call = tokio::spawn(async move { client.run(shell(STAY)).await });
        let alive = fifo.started().await;
        kill(runner.service(), Signal::SIGKILL).unwrap();
        alive.ended().await;
        call.await.unwrap().unwrap_err();
        assert_eq!(runner.ended().code(), Some(128 + 9));
    });
}

#[test]
fn told_to_stop_it_finishes_what_runs() {
    each_mode(&json!({"maximum_concurrent": 1}), async |runner| {
        let fifo = Fifo::new(&runner.input("fifo"));
        let go = Fifo::new(&runner.input("go"));
        let script = "exec 3>fifo; echo started >&3; read x < go; exit 5";
        let client = runner.client();
        let call = |script: &'static str| {
            let mut client = client.clone();
            tokio::spawn(async move { client.run(shell(script)).await })
        };
        let running = call(script);
        let alive = fifo.started().await;
        let waiting = call("true");
        // Calls of one connection arrive in order: when this one is answered, the
        // one before it waits for its turn.
        tokio::task::yield_now().await;
        let check = CheckReadinessRequest::default();
        client.clone().check_readiness(check).await.unwrap();

        runner.signal(Signal::SIGTERM);
        runner.await_log("stopping");
        let refused = waiting.await.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert!(refused.message().contains("stopping"), "{refused}");
        call("true").await.unwrap().unwrap_err();
        go.release().await;
        assert_eq!(running.await.unwrap().unwrap().into_inner().exit_code, 5);
        alive.ended().await;
        drop(client);
        assert_eq!(runner.ended().code(), Some(0));
    });
}

#[test]
fn told_twice_it_stops_at_once() {
    each_mode(&json!({}), async |runner| {
        let fifo = Fifo::new(&runner.input("fifo"));
        let mut client = runner.client();
        let call = tokio::spawn(async move { client.run(shell(STAY)).await });
        let alive = fifo.started().await;
        runner.signal(Signal::SIGTERM);
        runner.await_log("stopping");
        runner.signal(Signal::SIGTERM);
        alive.ended().await;
        call.await.unwrap().unwrap_err();
        runner.ended();
    });
}
