//! What goes on around commands.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use proto::wire::runner::CheckReadinessRequest;
use proto::wire::tmp_installer::InstallTemporaryDirectoryRequest;
use proto::wire::tmp_installer::temporary_directory_installer_server::{
    TemporaryDirectoryInstaller, TemporaryDirectoryInstallerServer,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status};

use crate::fifo::Fifo;
use crate::harness::{Runner, each_mode, shell};

/// A folder in which every user may do what it likes.
fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    folder
}

async fn readiness(runner: &Runner) -> Result<(), Status> {
    let request = CheckReadinessRequest::default();
    runner.client().check_readiness(request).await.map(drop)
}

async fn run(runner: &Runner, script: &str) -> Result<i64, Status> {
    let response = runner.run(shell(script)).await;
    for name in ["1/stdout", "1/stderr"] {
        let _ = fs::remove_file(runner.build().join(name));
    }
    response.map(|response| response.exit_code)
}

#[test]
fn paths_of_the_host_must_be_there() {
    let folder = open_folder();
    let needed = folder.path().join("needed");
    fs::write(&needed, "").unwrap();
    let config = json!({"readiness_checking_pathnames": ["/", &needed]});
    each_mode(&config, async |runner| {
        readiness(runner).await.unwrap();
        assert_eq!(run(runner, "exit 3").await.unwrap(), 3);
        fs::remove_file(&needed).unwrap();
        let refused = readiness(runner).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert!(refused.message().contains("needed"), "{refused}");
        // It may have failed for that.
        let failed = run(runner, "exit 3").await.unwrap_err();
        assert_eq!(failed.code(), Code::Unavailable, "{failed}");
        assert_eq!(run(runner, "exit 0").await.unwrap(), 0);
        fs::write(&needed, "").unwrap();
        readiness(runner).await.unwrap();
    });
}

/// A cleaner that notes that it ran, and fails while there is a file `fail`.
struct Cleaner(TempDir);

impl Cleaner {
    fn command(&self) -> Vec<String> {
        let folder = self.0.path().display();
        let script = format!("echo >> {folder}/runs; test ! -e {folder}/fail");
        vec!["/bin/sh".into(), "-c".into(), script]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn runs(&self) -> usize {
        fs::read(self.path("runs")).map_or(0, |text| text.len())
    }

    async fn ran(&self, times: usize) {
        while self.runs() < times {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        assert_eq!(self.runs(), times);
    }
}

#[test]
fn the_cleaner_runs_before_the_first_and_after_the_last_command() {
    let cleaner = Cleaner(open_folder());
    let config = json!({"run_command_cleaner": cleaner.command()});
    each_mode(&config, async |runner| {
        let _ = fs::remove_file(cleaner.path("runs"));
        let fifo = Fifo::new(&runner.input("fifo"));
        let go = Fifo::new(&runner.input("go"));
        let client = runner.client();
        let first = tokio::spawn({
            let mut client = client.clone();
            let script = "exec 3>fifo; echo started >&3; read x < go";
            async move { client.run(shell(script)).await }
        });
        let alive = fifo.started().await;
        assert_eq!(cleaner.runs(), 1);
        runner.make_action("2");
        let mut second = shell("exit 4");
        second.input_root_directory = "2/root".into();
        second.temporary_directory = "2/tmp".into();
        second.stdout_path = "2/stdout".into();
        second.stderr_path = "2/stderr".into();
        assert_eq!(runner.run(second).await.unwrap().exit_code, 4);
        assert_eq!(cleaner.runs(), 1);
        go.release().await;
        first.await.unwrap().unwrap();
        alive.ended().await;
        cleaner.ran(2).await;
        runner.take_output();

        // Whether somebody waits for a command or not.
        let fifo = Fifo::new(&runner.input("stays"));
        let script = "exec 3>stays; echo started >&3; while :; do sleep 1000; done";
        let mut left = runner.client();
        let call = tokio::spawn(async move { left.run(shell(script)).await });
        let alive = fifo.started().await;
        assert_eq!(cleaner.runs(), 3);
        call.abort();
        alive.ended().await;
        cleaner.ran(4).await;
        runner.take_output();

        readiness(runner).await.unwrap();
        cleaner.ran(6).await;
        fs::write(cleaner.path("fail"), "").unwrap();
        let refused = run(runner, "true").await.unwrap_err();
        assert_eq!(refused.code(), Code::Internal, "{refused}");
        assert!(refused.message().contains("/bin/sh"), "{refused}");
        readiness(runner).await.unwrap_err();
        fs::remove_file(cleaner.path("fail")).unwrap();
        assert_eq!(run(runner, "true").await.unwrap(), 0);
        cleaner.ran(10).await;
    });
}

/// Notes what it is asked to install, and is not ready when it is asked for nothing.
#[derive(Clone, Debug, Default)]
struct Installer(Arc<Mutex<Vec<String>>>);

#[tonic::async_trait]
impl TemporaryDirectoryInstaller for Installer {
    async fn check_readiness(&self, _: Request<()>) -> Result<Response<()>, Status> {
        match self.0.lock().unwrap().is_empty() {
            true => Err(Status::unavailable("nothing installed")),
            false => Ok(Response::new(())),
        }
    }

    async fn install_temporary_directory(
        &self,
        request: Request<InstallTemporaryDirectoryRequest>,
    ) -> Result<Response<()>, Status> {
        let directory = request.into_inner().temporary_directory;
        self.0.lock().unwrap().push(directory);
        Ok(Response::new(()))
    }
}

fn serve(installer: Installer, socket: &Path) {
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket).unwrap();
    fs::set_permissions(socket, Permissions::from_mode(0o777)).unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(TemporaryDirectoryInstallerServer::new(installer));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
}

#[test]
fn the_installer_is_told_of_temporary_directories() {
    let folder = open_folder();
    let socket = folder.path().join("installer");
    let address = format!("unix:{}", socket.display());
    let config = json!({"temporary_directory_installer": {"address": address}});
    each_mode(&config, async |runner| {
        let _ = fs::remove_file(&socket);
        let absent = run(runner, "true").await.unwrap_err();
        assert_eq!(absent.code(), Code::Unavailable, "{absent}");
        let installer = Installer::default();
        serve(installer.clone(), &socket);
        let refused = readiness(runner).await.unwrap_err();
        assert!(refused.message().contains("nothing installed"), "{refused}");
        assert_eq!(run(runner, "exit 5").await.unwrap(), 5);
        assert_eq!(*installer.0.lock().unwrap(), ["1/tmp"]);
        readiness(runner).await.unwrap();
    });
}

#[test]
fn core_dumps_are_server_logs_when_enabled() {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.contains(['/', '|', '@']) {
        println!("SKIP core_dumps_are_server_logs_when_enabled: kernel.core_pattern is {pattern}");
        return;
    }
    let name = pattern.trim_end().split('%').next().unwrap().to_owned();
    let dumps = |runner: &Runner| {
        let logs = fs::read_dir(runner.build().join("1/server_logs")).unwrap();
        let names = logs.map(|log| log.unwrap().file_name().into_string().unwrap());
        names.filter(|log| log.starts_with(&name)).count()
    };
    let crash = "mkdir -p sub && cd sub && exec sh -c 'kill -SEGV $$'";
    each_mode(&json!({}), async |runner| {
        assert_eq!(run(runner, crash).await.unwrap(), 128 + 11);
        assert_eq!(dumps(runner), 0);
    });
    let config = json!({"limits": {"core_size_bytes": 1 << 30}});
    each_mode(&config, async |runner| {
        // Beside its working directory.
        assert_eq!(run(runner, "kill -SEGV $$").await.unwrap(), 128 + 11);
        assert_eq!(dumps(runner), 1);
        assert!(!runner.input(&name).exists());
    });
}
