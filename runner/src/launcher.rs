//! The service half's asynchronous view of the launcher half.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandbox::{
    Client, ClientError, Done, Failure, FailureKind, Frame, Held, Limit, Reply, Request, RunRequest,
};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::upkeep::Stay;

/// Sends requests to the launcher and hands each reply to who waits for it.
///
/// A request is *waiting* for its turn (commands only), then *sent*, then
/// *answered*. Dropping its future while it is sent *abandons* it: a command is
/// then killed, and keeps its turn until the launcher says that all of it is dead;
/// that answer is taken note of and goes nowhere. When the launcher is gone,
/// every request fails.
///
/// Clones share one connection.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    connection: Arc<Connection>,
}

#[derive(Debug)]
struct Connection {
    socket: AsyncFd<Client>,
    calls: Mutex<Calls>,
    next_id: AtomicU64,
    turns: Arc<Semaphore>,
    /// What the launcher takes on at a time.
    reclaims: Semaphore,
    gone: CancellationToken,
    runtime: Handle,
}

/// Requests that are sent and not answered.
#[derive(Debug, Default)]
struct Calls {
    by_id: HashMap<u64, Call>,
    /// No further one can be answered.
    closed: bool,
}

#[derive(Debug)]
struct Call {
    answer: oneshot::Sender<Reply>,
    _run: Option<Run>,
}

/// What a command has until all of it is dead.
#[derive(Debug)]
struct Run {
    _turn: OwnedSemaphorePermit,
    _stay: Option<Stay>,
    _alive: Option<Alive>,
}

/// Is there as long as anything of a command is: who has the receiver hears of its
/// death, also when nobody waits for its outcome any more.
pub(crate) type Alive = oneshot::Sender<Infallible>;

impl Launcher {
    /// Takes over a connection, in a tokio runtime. At most `concurrent` commands
    /// run at a time.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub(crate) fn new(client: Client, concurrent: usize) -> std::io::Result<Self> {
        // Deprecated, since a type could name a descriptor that it does not own; the
        // client owns its own as long as it lives, and the successor takes unsafe.
        #[allow(deprecated)]
        let socket = AsyncFd::new(client)?;
        let connection = Arc::new(Connection {
            socket,
            calls: Mutex::default(),
            next_id: AtomicU64::new(1),
            turns: Arc::new(Semaphore::new(concurrent)),
            reclaims: Semaphore::new(sandbox::MOST_RECLAIMS),
            gone: CancellationToken::new(),
            runtime: Handle::current(),
        });
        tokio::spawn(Arc::clone(&connection).read());
        Ok(Self { connection })
    }

    /// Limits that nothing enforces.
    pub(crate) fn unenforced(&self) -> &[Limit] {
        self.connection.socket.get_ref().unenforced()
    }

    /// What the sandboxes protect.
    pub(crate) fn protections(&self) -> &[Held] {
        self.connection.socket.get_ref().protections()
    }

    /// Whether input roots can be overlays.
    pub(crate) fn overlays(&self) -> bool {
        self.connection.socket.get_ref().overlays()
    }

    /// Runs a command when it is its turn; returns when all of it is dead. `stay` and
    /// `alive` end then, also when nobody waits for that any more.
    pub(crate) async fn run(
        &self,
        request: &RunRequest,
        stay: Option<Stay>,
        alive: Option<Alive>,
    ) -> Result<Done, Error> {
        let turns = Arc::clone(&self.connection.turns);
        let turn = turns.acquire_owned().await.map_err(|_| Error::Stopping)?;
        let id = self.next_id();
        let frame = Frame::run(id, request).map_err(client_error)?;
        let run = Run {
            _turn: turn,
            _stay: stay,
            _alive: alive,
        };
        match self.call(id, &frame, Some(run)).await? {
            Reply::Done(done) => {
                tracing::debug!(end = ?done.end, exceeded = ?done.exceeded, "command ended");
                Ok(*done)
            }
            Reply::Failed { failure, .. } => {
                tracing::info!(?failure, "command did not run");
                Err(run_failure(failure))
            }
            _ => Err(Error::Answer),
        }
    }

    /// Whether a path below the build directory is there.
    pub(crate) async fn check_path(&self, path: Vec<u8>) -> Result<(), Error> {
        let id = self.next_id();
        let frame = Frame::of(&Request::CheckPath { id, path }).map_err(client_error)?;
        match self.call(id, &frame, None).await? {
            Reply::Checked { .. } => Ok(()),
            Reply::Failed { failure, .. } => Err(Error::NotReady(failure)),
            _ => Err(Error::Answer),
        }
    }

    /// Makes what commands left below a directory accessible to the worker;
    /// returns how many modes were changed.
    pub(crate) async fn reclaim(&self, path: Vec<u8>) -> Result<u64, Error> {
        let turn = self.connection.reclaims.acquire().await;
        let _turn = turn.map_err(|_| Error::Stopping)?;
        let id = self.next_id();
        let frame = Frame::of(&Request::Reclaim { id, path }).map_err(client_error)?;
        match self.call(id, &frame, None).await? {
            Reply::Reclaimed { changed, .. } => Ok(changed),
            Reply::Failed { failure, .. } => Err(run_failure(failure)),
            _ => Err(Error::Answer),
        }
    }

    /// Refuses the commands that wait for their turn, and all further ones.
    pub(crate) fn stop(&self) {
        self.connection.turns.close();
    }

    /// Returns when the launcher is gone.
    pub(crate) async fn gone(&self) {
        self.connection.gone.cancelled().await;
    }

    fn next_id(&self) -> u64 {
        self.connection.next_id.fetch_add(1, Ordering::Relaxed)
    }

    async fn call(&self, id: u64, frame: &Frame, run: Option<Run>) -> Result<Reply, Error> {
        let connection = &self.connection;
        let kills = run.is_some();
        let (answer, answered) = oneshot::channel();
        {
            let mut calls = connection.calls();
            if calls.closed {
                return Err(Error::LauncherGone);
            }
            let call = Call { answer, _run: run };
            calls.by_id.insert(id, call);
        }
        let mut sent = Sent {
            connection,
            id,
            state: State::Unsent,
        };
        connection.send(frame).await?;
        sent.state = if kills { State::Command } else { State::Other };
        // The sender is dropped unused only when the launcher is gone.
        answered.await.map_err(|_| Error::LauncherGone)
    }
}

/// A request from its making to its answer; dropped before that, it is abandoned.
struct Sent<'a> {
    connection: &'a Arc<Connection>,
    id: u64,
    state: State,
}

enum State {
    Unsent,
    Command,
    Other,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        match self.state {
            State::Unsent => {
                self.connection.calls().by_id.remove(&self.id);
            }
            State::Command => {
                if self.connection.calls().by_id.contains_key(&self.id) {
                    self.connection.kill(self.id);
                }
            }
            State::Other => {}
        }
    }
}

impl Connection {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, frame: &Frame) -> Result<(), Error> {
        loop {
            let mut writable = self.socket.writable().await.map_err(Error::LauncherIo)?;
            match self.socket.get_ref().send(frame) {
                Ok(()) => return Ok(()),
                Err(error) if would_block(&error) => writable.clear_ready(),
                Err(error) if interrupted(&error) => {}
                Err(error) => return Err(client_error(error)),
            }
        }
    }

    /// Has the launcher kill a command, without waiting for that.
    fn kill(self: &Arc<Self>, id: u64) {
        let Ok(frame) = Frame::of(&Request::Kill { id }) else {
            return;
        };
        match self.socket.get_ref().send(&frame) {
            Err(error) if would_block(&error) || interrupted(&error) => {
                let connection = Arc::clone(self);
                // Fails only when the launcher, and so the command, is gone.
                self.runtime
                    .spawn(async move { connection.send(&frame).await });
            }
            _ => {}
        }
    }

    /// Hands out replies until the launcher is gone, or makes no sense.
    async fn read(self: Arc<Self>) {
        while let Ok(mut readable) = self.socket.readable().await {
            match self.socket.get_ref().receive() {
                Ok(reply) => self.answer(reply),
                Err(error) if would_block(&error) => readable.clear_ready(),
                Err(error) if interrupted(&error) => {}
                Err(error) => {
                    tracing::error!("{error}");
                    break;
                }
            }
        }
        {
            let mut calls = self.calls();
            calls.closed = true;
            calls.by_id.clear();
        }
        self.gone.cancel();
    }

    fn answer(&self, reply: Reply) {
        let id = match &reply {
            Reply::Started => return,
            Reply::Done(done) => done.id,
            Reply::Failed { id, .. } | Reply::Reclaimed { id, .. } | Reply::Checked { id } => *id,
        };
        match self.calls().by_id.remove(&id) {
            // An abandoned request's answer goes nowhere.
            Some(call) => drop(call.answer.send(reply)),
            None => tracing::warn!(id, "the launcher answered a request that was not made"),
        }
    }
}

fn would_block(error: &ClientError) -> bool {
    matches!(error, ClientError::Io(error) if error.kind() == ErrorKind::WouldBlock)
}

fn interrupted(error: &ClientError) -> bool {
    matches!(error, ClientError::Io(error) if error.kind() == ErrorKind::Interrupted)
}

fn client_error(error: ClientError) -> Error {
    match error {
        ClientError::Message(error) => Error::Message(error),
        ClientError::Io(error) => Error::LauncherIo(error),
        ClientError::Gone => Error::LauncherGone,
    }
}

/// Who is to blame for a command that did not run.
fn run_failure(failure: Failure) -> Error {
    match failure.kind {
        FailureKind::Command => Error::Command(failure),
        FailureKind::Request => Error::Request(failure),
        FailureKind::Sandbox => Error::Sandbox(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::{Code, Status};

    #[test]
    fn failures_have_the_code_of_who_is_to_blame() {
        let status = |kind| {
            let failure = Failure {
                kind,
                step: "execute".into(),
                errno: nix::libc::ENOENT,
                detail: "/bin/absent".into(),
            };
            Status::from(run_failure(failure))
        };
        for (kind, code) in [
            (FailureKind::Command, Code::InvalidArgument),
            (FailureKind::Request, Code::InvalidArgument),
            (FailureKind::Sandbox, Code::Internal),
        ] {
            let status = status(kind);
            assert_eq!(status.code(), code);
            let message = status.message();
            assert!(message.contains("/bin/absent"), "{message}");
            assert!(message.contains("No such file"), "{message}");
        }
        let gone = Status::from(client_error(ClientError::Gone));
        assert_eq!(gone.code(), Code::Unavailable);
    }
}
