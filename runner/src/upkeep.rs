//! What goes on around commands, where it is configured, as in Buildbarn's runner
//! (bb-remote-execution, `pkg/runner`, `pkg/cleaner`).
//!
//! - Paths of the host must be there for the runner to be ready. A command that
//!   failed while one was not is no result: it may have failed for that.
//! - A *cleaner* runs when the first command begins and when the last one has ended:
//!   `idle → (cleaned) → busy with n → (cleaned) → idle`. A question for readiness
//!   counts as a command. While it runs, commands wait. If it fails before a command,
//!   that is refused; if it fails after one, it says so in the log, and the next
//!   command will not begin before it succeeds.
//! - An *installer* is told of each command's temporary directory.

use std::sync::Arc;

use sandbox::{Done, End, RunRequest};
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

use crate::attendant::{Attendant, Duties};
use crate::error::Error;
use crate::launcher::{Alive, Launcher};

/// Runs commands, and does what is configured before and after. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Upkeep {
    launcher: Launcher,
    /// None where nothing is configured.
    attendant: Option<Attendant>,
    checks: bool,
    installs: bool,
    occupancy: Option<Occupancy>,
}

impl Upkeep {
    pub(crate) fn new(launcher: Launcher, attendant: Option<Attendant>, duties: &Duties) -> Self {
        let cleaner = attendant.clone().filter(|_| !duties.cleaner.is_empty());
        Self {
            launcher,
            attendant,
            checks: !duties.pathnames.is_empty(),
            installs: duties.installer.is_some(),
            occupancy: cleaner.map(Occupancy::new),
        }
    }

    /// Runs a command when it is its turn; returns when all of it is dead.
    /// `alive` ends then too, also when nobody waits for that any more.
    pub(crate) async fn run(
        &self,
        request: &RunRequest,
        alive: Option<Alive>,
    ) -> Result<Done, Error> {
        let stay = self.begin().await?;
        let Some(attendant) = &self.attendant else {
            return self.launcher.run(request, stay, alive).await;
        };
        if self.installs {
            // What a validated request says is text.
            let directory = String::from_utf8_lossy(&request.temporary_directory);
            attendant.install(directory.into_owned()).await?;
        }
        let done = self.launcher.run(request, stay, alive).await?;
        if self.checks && done.end != End::Exited(0) {
            attendant.check_pathnames().await?;
        }
        Ok(done)
    }

    /// Whether commands can be run, and a path below the build directory is there.
    pub(crate) async fn check_readiness(&self, path: Vec<u8>) -> Result<(), Error> {
        if let Some(attendant) = &self.attendant {
            if self.checks {
                attendant.check_pathnames().await?;
            }
            let _stay = self.begin().await?;
            if self.installs {
                attendant.check_installer().await?;
            }
        }
        self.launcher.check_path(path).await
    }

    /// Returns when what is to be done after the commands is done.
    pub(crate) async fn finish(&self) {
        if let Some(occupancy) = &self.occupancy {
            occupancy.leaving.close();
            occupancy.leaving.wait().await;
        }
    }

    /// Returns when the attendant was found to be gone.
    pub(crate) async fn gone(&self) {
        match &self.attendant {
            Some(attendant) => attendant.gone().await,
            None => std::future::pending().await,
        }
    }

    async fn begin(&self) -> Result<Option<Stay>, Error> {
        match &self.occupancy {
            Some(occupancy) => occupancy.enter().await.map(Some),
            None => Ok(None),
        }
    }
}

/// How many commands there are, for the cleaner.
#[derive(Clone, Debug)]
struct Occupancy {
    /// Locked while the cleaner runs.
    commands: Arc<Mutex<usize>>,
    leaving: TaskTracker,
    attendant: Attendant,
}

impl Occupancy {
    fn new(attendant: Attendant) -> Self {
        Self {
            commands: Arc::default(),
            leaving: TaskTracker::new(),
            attendant,
        }
    }

    async fn enter(&self) -> Result<Stay, Error> {
        let mut commands = self.commands.lock().await;
        if *commands == 0 {
            self.attendant.clean().await?;
        }
        *commands += 1;
        Ok(Stay(self.clone()))
    }

    async fn leave(self) {
        let mut commands = self.commands.lock().await;
        *commands -= 1;
        if *commands == 0
            && let Err(error) = self.attendant.clean().await
        {
            tracing::error!("{error}");
        }
    }
}

/// One command among those of a runner, until all of it is dead; dropped in a tokio
/// runtime.
#[derive(Debug)]
pub(crate) struct Stay(Occupancy);

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.leaving.spawn(self.0.clone().leave());
    }
}
