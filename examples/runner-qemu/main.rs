//! A runner that executes actions of another architecture: each command through QEMU's
//! user mode, by a `bb_runner` behind it, and so in its sandbox.
//!
//! It serves `buildbarn.runner.Runner`, which is all that a worker needs of a runner.
//! `runner-qemu SOCKET BEHIND EMULATOR [OPTION]...`: the unix socket to serve on, the
//! address of the `bb_runner`, and how an emulated program is started.

#![forbid(unsafe_code)]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use daemon::{Address, Channel, Diagnostics, Listener, Shutdown};
use proto::wire::runner::runner_client::RunnerClient;
use proto::wire::runner::runner_server::{Runner, RunnerServer};
use proto::wire::runner::{CheckReadinessRequest, RunRequest, RunResponse};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// Executes commands of another architecture through QEMU.
#[derive(Parser)]
struct Arguments {
    /// The unix socket to serve on.
    socket: PathBuf,
    /// The runner that runs the emulator.
    behind: Address,
    /// The emulator, as commands find it, and its options.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    emulator: Vec<String>,
}

/// Passes calls on, with the emulator before each command.
struct Emulating {
    behind: Channel,
    emulator: Vec<String>,
}

impl Emulating {
    fn client(&self) -> RunnerClient<Channel> {
        RunnerClient::new(self.behind.clone())
    }
}

#[tonic::async_trait]
impl Runner for Emulating {
    async fn check_readiness(
        &self,
        request: Request<CheckReadinessRequest>,
    ) -> Result<Response<()>, Status> {
        self.client().check_readiness(request.into_inner()).await
    }

    /// The call behind ends with this one: when it is cancelled, the future is dropped.
    async fn run(&self, request: Request<RunRequest>) -> Result<Response<RunResponse>, Status> {
        let mut request = request.into_inner();
        let program = request.arguments.first().map_or("", |program| program);
        // The emulator looks for no program in PATH, nor does the runner see the
        // action's root from here.
        if !program.contains('/') {
            return Err(Status::invalid_argument(format!(
                "arguments: {program:?} has no slash; this runner finds no programs by PATH"
            )));
        }
        request
            .arguments
            .splice(0..0, self.emulator.iter().cloned());
        self.client().run(request).await
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Arguments {
        socket,
        behind,
        emulator,
    } = Arguments::parse();
    let behind = daemon::connect(&behind).context("cannot use the runner behind")?;
    let listener = Listener::try_from(daemon::listener::bind(&Address::Unix(socket.clone()))?)?;
    // For the worker, another user; the socket's directory says who reaches it.
    std::fs::set_permissions(&socket, Permissions::from_mode(0o666))?;
    let service = RunnerServer::new(Emulating { behind, emulator });
    let diagnostics = Diagnostics::new(&Shutdown::new());
    println!("serving");
    daemon::serve_to_the_end(listener, Routes::new(service), diagnostics).await?;
    Ok(())
}
