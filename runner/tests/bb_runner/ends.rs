//! Commands that are ended by somebody else.

use std::time::Duration;

use proto::wire::runner_extension::PeakUsage;
use proto::wire::runner_extension::termination::Reason;
use serde_json::json;
use tonic::{Code, Request};

use crate::fifo::Fifo;
use crate::harness::{each_mode, shell, usage, with_timeout};

/// Tells that it started, leaves a process in the background that ignores what it
/// can, and stays.
const STAY: &str = "exec 3>fifo; echo started >&3; echo begun; \
                    (trap '' TERM HUP INT; while :; do sleep 1000; done) & \
                    while :; do sleep 1000; done";

#[test]
fn a_timeout_kills_everything_and_is_told() {
    each_mode(&json!({}), async |runner| {
        let fifo = Fifo::new(&runner.input("fifo"));
        let request = with_timeout(shell(STAY), Duration::from_millis(300));
        let mut extension = runner.extension();
        let (response, alive) = tokio::join!(extension.run(request), fifo.started());
        let response = response.unwrap().into_inner();
        drop(alive);
        assert!(fifo.is_abandoned(), "answered while something was alive");
        let termination = response.termination.unwrap();
        assert_eq!(termination.reason(), Reason::TimedOut);
        let wall_time = proto::messages::span(&termination.wall_time.unwrap()).unwrap();
        assert!(wall_time >= Duration::from_millis(300));
        assert_eq!(response.exit_code, 128 + 9);
        assert_eq!(usage(&response.resource_usage).termination_signal, "KILL");
        assert_eq!(runner.take_output().0, "begun\n", "what it wrote is kept");
    });
}

#[test]
fn a_limit_that_was_met_is_told() {
    let extra = json!({
        "limits": {"output_bytes": 1000},
        "maximum_limits": {"output_bytes": 2000},
    });
    each_mode(&extra, async |runner| {
        let script = "head -c 1500 /dev/zero; exit 1";
        let day = Duration::from_secs(86_400);
        let mut request = with_timeout(shell(script), day);
        let mut extension = runner.extension();
        let response = extension.run(request.clone()).await.unwrap().into_inner();
        let termination = response.termination.unwrap();
        assert_eq!(termination.reason(), Reason::LimitExceeded);
        assert_eq!(termination.limit, "output_bytes");
        assert_eq!(termination.limit_value, 1000);
        let name = "hayloft.runner.v1.PeakUsage";
        let peak: PeakUsage = proto::messages::unpack(&response.resource_usage[1], name).unwrap();
        assert_eq!(peak.used["output_bytes"], 1500);
        assert_eq!(runner.take_output().0.len(), 1000);

        request.limits.insert("output_bytes".into(), 2000);
        let response = extension.run(request.clone()).await.unwrap().into_inner();
        assert_eq!(response.termination.unwrap().reason(), Reason::Exited);
        assert_eq!(runner.take_output().0.len(), 1500);
        request.limits.insert("output_bytes".into(), 2001);
        let status = extension.run(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("output_bytes"), "{status}");

        // Buildbarn's protocol can tell it by a status alone.
        let status = runner.run(shell(script)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("output_bytes"), "{status}");
    });
}

#[test]
fn a_command_that_ends_in_time_is_told_as_such() {
    each_mode(&json!({}), async |runner| {
        let day = Duration::from_secs(86_400);
        for (script, reason, code) in [
            ("exit 3", Reason::Exited, 3),
            ("kill -TERM $$", Reason::Signaled, 128 + 15),
        ] {
            let request = with_timeout(shell(script), day);
            let response = runner.extension().run(request).await.unwrap().into_inner();
            assert_eq!(response.termination.unwrap().reason(), reason);
            assert_eq!(response.exit_code, code);
            runner.take_output();
        }
        let request = with_timeout(shell("true"), Duration::ZERO);
        let status = runner.extension().run(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    });
}

#[test]
fn what_a_command_leaves_running_neither_delays_nor_survives_it() {
    each_mode(&json!({}), async |runner| {
        let fifo = Fifo::new(&runner.input("fifo"));
        let script = "exec 3>fifo; echo started >&3; setsid sleep 1000 & exit 0";
        let (response, alive) = tokio::join!(runner.run(shell(script)), fifo.started());
        assert_eq!(response.unwrap().exit_code, 0);
        drop(alive);
        assert!(fifo.is_abandoned());
    });
}

#[test]
fn cancelling_the_call_kills_the_command() {
    each_mode(&json!({"maximum_concurrent": 1}), async |runner| {
        let fifo = Fifo::new(&runner.input("fifo"));
        let mut client = runner.client();
        let call = tokio::spawn(async move { client.run(shell(STAY)).await });
        let alive = fifo.started().await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        // The one place is free only when nothing of the first is left.
        runner.make_action("2");
        let mut next = shell("true");
        next.stdout_path = "2/stdout".into();
        next.stderr_path = "2/stderr".into();
        next.input_root_directory = "2/root".into();
        assert_eq!(runner.run(next).await.unwrap().exit_code, 0);
        drop(alive);
        assert!(fifo.is_abandoned());
    });
}

#[test]
fn the_call_s_deadline_kills_the_command() {
    each_mode(&json!({}), async |runner| {
        let fifo = Fifo::new(&runner.input("fifo"));
        let mut request = Request::new(shell(STAY));
        request.set_timeout(Duration::from_millis(300));
        let mut client = runner.client();
        let (answer, alive) = tokio::join!(client.run(request), fifo.started());
        assert!(matches!(
            answer.unwrap_err().code(),
            Code::Cancelled | Code::DeadlineExceeded
        ));
        alive.ended().await;
    });
}

#[test]
fn losing_the_connection_kills_the_command() {
    each_mode(&json!({}), async |runner| {
        let fifo = Fifo::new(&runner.input("fifo"));
        let alive = {
            // A worker that dies: its event loop goes with everything in it.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let address = daemon::Address::Unix(runner.socket());
            runtime.spawn(async move {
                let channel = daemon::connect(&address).unwrap();
                proto::wire::runner::runner_client::RunnerClient::new(channel)
                    .run(shell(STAY))
                    .await
            });
            let alive = fifo.started().await;
            runtime.shutdown_background();
            alive
        };
        alive.ended().await;
    });
}
