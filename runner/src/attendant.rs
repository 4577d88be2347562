//! The attendant: a process beside the two halves of the runner.
//!
//! There is one where the configuration has paths that must be there, a cleaner, or an
//! installer of temporary directories: all are the host's, which neither half can
//! reach. It is the runner's user, and does three things, each as configured, for a
//! service half that it does not trust: of what that says it takes one path, and hands
//! it on to the installer.
//!
//! One question is asked at a time on a stream. A question is a byte that says which
//! ([`Duty`]), the length of a path (`u32`, little endian) and the path; the answer a
//! byte, 0 for done, and a text of that form that says why not. Another byte is the
//! number of a gRPC code.

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use daemon::{Channel, Upstream};
use proto::wire::tmp_installer::InstallTemporaryDirectoryRequest;
use proto::wire::tmp_installer::temporary_directory_installer_client::TemporaryDirectoryInstallerClient as Installer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::error::Error;

/// Most bytes of a path or of a reason.
const TEXT_BYTES: usize = sandbox::PATH_BYTES;

/// How long an answer is waited for: a cleaner has its time, and whoever waits for a
/// command hears of an attendant that hangs.
const PATIENCE: Duration = Duration::from_secs(600);

/// What it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Duties {
    /// Absolute paths that must exist.
    pub(crate) pathnames: Vec<PathBuf>,
    /// A program and its arguments; empty: none.
    pub(crate) cleaner: Vec<String>,
    pub(crate) installer: Option<Upstream>,
}

/// What it is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    /// Nothing: whether it serves.
    Serve = 1,
    /// To look whether all paths exist.
    CheckPathnames = 2,
    /// To run the cleaner.
    Clean = 3,
    /// To ask whether the installer is ready.
    CheckInstaller = 4,
    /// To have the installer install a temporary directory.
    Install = 5,
}

impl Duty {
    fn of(byte: u8) -> Option<Self> {
        let all = [
            Self::Serve,
            Self::CheckPathnames,
            Self::Clean,
            Self::CheckInstaller,
            Self::Install,
        ];
        all.into_iter().find(|duty| *duty as u8 == byte)
    }
}

impl Duties {
    pub(crate) fn any(&self) -> bool {
        !self.pathnames.is_empty() || !self.cleaner.is_empty() || self.installer.is_some()
    }

    /// The attendant process, until nobody can ask any more.
    pub(crate) fn attend(&self, stream: std::os::unix::net::UnixStream) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let served = runtime.and_then(|runtime| runtime.block_on(self.serve(stream)));
        match served {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("the attendant failed: {error}");
                ExitCode::FAILURE
            }
        }
    }

    async fn serve(&self, stream: std::os::unix::net::UnixStream) -> std::io::Result<()> {
        stream.set_nonblocking(true)?;
        let mut stream = UnixStream::from_std(stream)?;
        let installer = self.installer.as_ref().map(Upstream::connect).transpose();
        let installer = installer.map_err(std::io::Error::other)?;
        // The end of the stream, while a duty is done as well, ends the cleaner too.
        while let Some((duty, path)) = question(&mut stream).await? {
            let done = tokio::select! {
                done = self.perform(duty, path, installer.as_ref()) => done,
                ended = ended(&stream) => return ended,
            };
            let (code, reason) = match &done {
                Ok(()) => (Code::Ok, ""),
                Err(status) => (status.code(), status.message()),
            };
            write(&mut stream, code as i32 as u8, reason).await?;
        }
        Ok(())
    }

    async fn perform(
        &self,
        duty: Duty,
        path: String,
        installer: Option<&Channel>,
    ) -> Result<(), Status> {
        let installer = || {
            let none = || Status::internal("there is no installer of temporary directories");
            installer.cloned().map(Installer::new).ok_or_else(none)
        };
        match duty {
            Duty::Serve => Ok(()),
            Duty::CheckPathnames => self.check_pathnames().await,
            Duty::Clean => self.clean().await,
            Duty::CheckInstaller => installer()?.check_readiness(()).await.map(drop),
            Duty::Install => {
                let request = InstallTemporaryDirectoryRequest {
                    temporary_directory: path,
                };
                let installed = installer()?.install_temporary_directory(request).await;
                installed.map(drop)
            }
        }
    }

    async fn check_pathnames(&self) -> Result<(), Status> {
        for path in &self.pathnames {
            if let Err(error) = tokio::fs::metadata(path).await {
                let path = path.display();
                return Err(Status::unavailable(format!("{path}: {error}")));
            }
        }
        Ok(())
    }

    async fn clean(&self) -> Result<(), Status> {
        let Some((program, arguments)) = self.cleaner.split_first() else {
            return Ok(());
        };
        let status = tokio::process::Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            // Standard output is the runner's, which says nothing there.
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Status::internal(format!("{program}: {status}"))),
            Err(error) => Err(Status::internal(format!("{program}: {error}"))),
        }
    }
}

/// Returns at the end of the stream. Nothing is asked before there is an answer.
async fn ended(stream: &UnixStream) -> std::io::Result<()> {
    loop {
        stream.readable().await?;
        match stream.try_read(&mut [0]) {
            Ok(0) => return Ok(()),
            Ok(_) => return Err(std::io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// The next question; `None` at the end.
async fn question(stream: &mut UnixStream) -> std::io::Result<Option<(Duty, String)>> {
    let mut duty = [0];
    if stream.read(&mut duty).await? == 0 {
        return Ok(None);
    }
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let duty = Duty::of(duty[0]).ok_or_else(invalid)?;
    Ok(Some((duty, text(stream).await?)))
}

async fn text(stream: &mut UnixStream) -> std::io::Result<String> {
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let length = usize::try_from(stream.read_u32_le().await?).map_err(|_| invalid())?;
    if length > TEXT_BYTES {
        return Err(invalid());
    }
    let mut text = vec![0; length];
    stream.read_exact(&mut text).await?;
    String::from_utf8(text).map_err(|_| invalid())
}

async fn write(stream: &mut UnixStream, byte: u8, text: &str) -> std::io::Result<()> {
    let mut end = text.len().min(TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut message = vec![byte];
    // At most TEXT_BYTES.
    message.extend_from_slice(&(end as u32).to_le_bytes());
    message.extend_from_slice(&text.as_bytes()[..end]);
    stream.write_all(&message).await
}

/// The service half's view of it. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Attendant {
    stream: Arc<Mutex<UnixStream>>,
    gone: CancellationToken,
}

impl Attendant {
    /// Takes over the stream, in a tokio runtime, and waits until it serves.
    ///
    /// # Errors
    /// It cannot do its duties; it logged why.
    pub(crate) async fn new(stream: std::os::unix::net::UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        let attendant = Self {
            stream: Arc::new(Mutex::new(UnixStream::from_std(stream)?)),
            gone: CancellationToken::new(),
        };
        let served = attendant.ask(Duty::Serve, String::new()).await;
        served.map_err(std::io::Error::other)?;
        Ok(attendant)
    }

    /// Whether all paths are there that must be.
    pub(crate) async fn check_pathnames(&self) -> Result<(), Error> {
        let checked = self.ask(Duty::CheckPathnames, String::new()).await;
        checked.map_err(Error::Pathname)
    }

    /// Runs the cleaner.
    pub(crate) async fn clean(&self) -> Result<(), Error> {
        let cleaned = self.ask(Duty::Clean, String::new()).await;
        cleaned.map_err(Error::Clean)
    }

    /// Whether the installer is ready.
    pub(crate) async fn check_installer(&self) -> Result<(), Error> {
        let checked = self.ask(Duty::CheckInstaller, String::new()).await;
        checked.map_err(Error::Installer)
    }

    /// Has a temporary directory installed.
    pub(crate) async fn install(&self, directory: String) -> Result<(), Error> {
        let installed = self.ask(Duty::Install, directory).await;
        installed.map_err(Error::Installer)
    }

    /// Returns when it was found to be gone.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    async fn ask(&self, duty: Duty, path: String) -> Result<(), Status> {
        let asking = tokio::time::timeout(PATIENCE, self.exchange(duty, path));
        asking.await.unwrap_or_else(|_| {
            let seconds = PATIENCE.as_secs();
            let reason = format!("the runner's attendant did not answer for {seconds} s");
            Err(Status::unavailable(reason))
        })
    }

    async fn exchange(&self, duty: Duty, path: String) -> Result<(), Status> {
        // A call that is dropped while it waits here asks nothing.
        let mut stream = Arc::clone(&self.stream).lock_owned().await;
        let gone = self.gone.clone();
        let asked = tokio::spawn(async move {
            let answer = async {
                write(&mut stream, duty as u8, &path).await?;
                Ok((stream.read_u8().await?, text(&mut stream).await?))
            };
            answer.await.map_err(|error: std::io::Error| {
                gone.cancel();
                Status::unavailable(format!("the runner's attendant is gone: {error}"))
            })
        });
        // Dropping the call must not leave half an exchange: it is a task of its own.
        match asked.await {
            Ok(Ok((0, _))) => Ok(()),
            Ok(Ok((code, reason))) => Err(Status::new(Code::from_i32(code.into()), reason)),
            Ok(Err(status)) => Err(status),
            Err(panic) => Err(Status::internal(panic.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    /// An attendant, and the stream on which it is asked.
    fn attendant() -> (Attendant, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let attendant = Attendant {
            stream: Arc::new(Mutex::new(ours)),
            gone: CancellationToken::new(),
        };
        (attendant, theirs)
    }

    /// Begins what cannot end yet.
    async fn begin<T>(call: impl Future<Output = T>) {
        tokio::select! {
            biased;
            _ = call => panic!("ended"),
            () = std::future::ready(()) => {}
        }
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_asked() {
        let (attendant, mut asked) = attendant();
        let cleaning = {
            let attendant = attendant.clone();
            tokio::spawn(async move { attendant.clean().await })
        };
        let first = question(&mut asked).await.unwrap().unwrap();
        assert_eq!(first.0, Duty::Clean);
        // It hangs, and whoever asked gives up; so do others.
        cleaning.abort();
        for _ in 0..3 {
            begin(pin!(attendant.install("no".into()))).await;
        }
        let mut next = pin!(attendant.check_pathnames());
        begin(next.as_mut()).await;
        write(&mut asked, 0, "").await.unwrap();
        let answered = async {
            let second = question(&mut asked).await.unwrap().unwrap();
            assert_eq!(second.0, Duty::CheckPathnames);
            write(&mut asked, 0, "").await.unwrap();
        };
        let (checked, ()) = tokio::join!(next, answered);
        checked.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_attendant_that_hangs_is_told_of() {
        let (attendant, _asked) = attendant();
        for _ in 0..2 {
            let error = attendant.clean().await.unwrap_err();
            assert!(error.to_string().contains("did not answer"), "{error}");
        }
    }
}
