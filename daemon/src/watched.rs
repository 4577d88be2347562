//! What is made of files, and made anew when they change.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Error;

/// How long files stay unlooked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// What tells one state of a file from another: device, inode, size, change time.
/// A link is followed, so that what swaps links (Kubernetes' volumes) is noticed.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// A value made of files. It is asked for at each use; at most once a second that
/// looks whether the files changed, and if so makes the value anew. While what they
/// hold is not right (they may be replaced one after the other) the last value that
/// was stays, and the log says why.
pub(crate) struct Watched<T> {
    files: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T, Error> + Send + Sync>,
    interval: Duration,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    stamps: Vec<Stamp>,
    looked: Instant,
    /// What is wrong with the files, as the log has it already.
    complaint: Option<String>,
}

impl<T> Watched<T> {
    /// # Errors
    /// `make`'s, at this first time.
    pub(crate) fn new(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let stamps = files.iter().map(stamp).collect();
        let value = Arc::new(make()?);
        Ok(Self {
            files,
            make: Box::new(make),
            interval: INTERVAL,
            state: Mutex::new(State {
                value,
                stamps,
                looked: Instant::now(),
                complaint: None,
            }),
        })
    }

    /// The value of now.
    pub(crate) fn get(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= self.interval {
            state.looked = Instant::now();
            self.look(&mut state);
        }
        Arc::clone(&state.value)
    }

    fn look(&self, state: &mut State<T>) {
        // Taken first: a change while the value is made is seen the next time.
        let stamps: Vec<Stamp> = self.files.iter().map(stamp).collect();
        if stamps == state.stamps {
            return;
        }
        match (self.make)() {
            Ok(value) => {
                tracing::info!(files = ?self.files, "read again what changed");
                state.value = Arc::new(value);
                state.stamps = stamps;
                state.complaint = None;
            }
            Err(error) => {
                let complaint = error.to_string();
                if state.complaint.as_ref() != Some(&complaint) {
                    tracing::warn!(%error, "files changed and cannot be used, keeping what was");
                    state.complaint = Some(complaint);
                }
            }
        }
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

fn stamp(path: &PathBuf) -> Stamp {
    let found = fs::metadata(path).ok()?;
    Some((
        found.dev(),
        found.ino(),
        found.size(),
        found.ctime(),
        found.ctime_nsec(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_follows_its_file_and_survives_what_is_not_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        fs::write(&path, "1").unwrap();
        let read = path.clone();
        let make = move || {
            let text = fs::read_to_string(&read).unwrap();
            let number: u32 = text.parse().map_err(|_| Error::Tls {
                path: read.clone(),
                reason: "no number".into(),
            })?;
            Ok(number)
        };
        let mut watched = Watched::new(vec![path.clone()], make).unwrap();
        watched.interval = Duration::ZERO;
        assert_eq!(*watched.get(), 1);
        fs::write(&path, "twenty").unwrap();
        assert_eq!(*watched.get(), 1);
        fs::write(&path, "20").unwrap();
        assert_eq!(*watched.get(), 20);
        // Replaced by another file of the same size.
        let other = folder.path().join("other");
        fs::write(&other, "21").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(*watched.get(), 21);
    }
}
