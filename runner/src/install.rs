//! `bb_runner_installer [DIRECTORY]`: the runner, put where another container finds it.
//!
//! The program is the runner itself under another name, as Buildbarn's installer image
//! has it: an image with nothing but this file fills a volume, and a container of any
//! userland runs `DIRECTORY/bb_runner` from there. `DIRECTORY/installed` is made last;
//! Buildbarn's examples wait for it before they start the runner.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Where Buildbarn's examples have it.
pub const DIRECTORY: &str = "/bb";

/// What the program is called when it installs itself.
pub const NAME: &str = "bb_runner_installer";

/// Why the runner is not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Reading or writing failed.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What was written is not what is read back.
    #[error("{} was written, but reads otherwise", .0.display())]
    Altered(PathBuf),
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// There was none.
    New,
    /// Another was there. Whoever runs it goes on with it.
    Replaced,
    /// This very one was there.
    Kept,
}

/// Puts `program` into `directory` as `bb_runner`, executable for all and writable for
/// nobody, and makes `installed` beside it. At every moment there is either the old
/// program, complete, or the new.
///
/// # Errors
/// [`InstallError`]; the old program, if there was one, is as it was.
pub fn install(program: &Path, directory: &Path) -> Result<Installed, InstallError> {
    let runner = directory.join("bb_runner");
    let done = match fs::symlink_metadata(&runner) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Installed::New,
        Err(source) => return Err(failed("look at", &runner)(source)),
        Ok(there) => {
            let executable = there.is_file() && there.permissions().mode() & 0o7777 == 0o555;
            match executable && same(program, &runner)? {
                true => Installed::Kept,
                false => Installed::Replaced,
            }
        }
    };
    if done != Installed::Kept {
        // Of the same file system, so that it can take the other's place at once.
        let aside = directory.join(".bb_runner.new");
        place(program, &aside, &runner).inspect_err(|_| {
            // It may not be there; what failed is told.
            let _ = fs::remove_file(&aside);
        })?;
    }
    let marker = directory.join("installed");
    let made = OpenOptions::new().create(true).append(true).open(&marker);
    made.map_err(failed("make", &marker))?;
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(failed("synchronize", directory))?;
    Ok(done)
}

fn place(program: &Path, aside: &Path, runner: &Path) -> Result<(), InstallError> {
    // What an installer that was killed has left.
    match fs::remove_file(aside) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", aside)(source));
        }
        _ => {}
    }
    let mut from = File::open(program).map_err(failed("read", program))?;
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(aside);
    let mut to = made.map_err(failed("make", aside))?;
    io::copy(&mut from, &mut to).map_err(failed("write", aside))?;
    to.set_permissions(Permissions::from_mode(0o555))
        .map_err(failed("make executable", aside))?;
    to.sync_all().map_err(failed("write", aside))?;
    drop(to);
    if !same(program, aside)? {
        return Err(InstallError::Altered(aside.to_owned()));
    }
    fs::rename(aside, runner).map_err(failed("put in place", runner))
}

/// Whether two files hold the same bytes.
fn same(one: &Path, other: &Path) -> Result<bool, InstallError> {
    let open = |path: &Path| File::open(path).map_err(failed("read", path));
    let (mut left, mut right) = (open(one)?, open(other)?);
    let (mut expected, mut found) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let length = fill(&mut left, &mut expected).map_err(failed("read", one))?;
        let there = fill(&mut right, &mut found).map_err(failed("read", other))?;
        if expected[..length] != found[..there] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::File { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        folder: tempfile::TempDir,
        program: PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("bb")).unwrap();
            let program = folder.path().join("program");
            fs::write(&program, vec![7; 200_001]).unwrap();
            Self { folder, program }
        }

        fn bb(&self) -> PathBuf {
            self.folder.path().join("bb")
        }

        fn install(&self) -> Result<Installed, InstallError> {
            install(&self.program, &self.bb())
        }

        /// Names, modes and lengths of what there is.
        fn listing(&self) -> Vec<(String, u32, u64)> {
            let mut all: Vec<_> = fs::read_dir(self.bb())
                .unwrap()
                .map(|entry| {
                    let entry = entry.unwrap();
                    let metadata = entry.metadata().unwrap();
                    let name = entry.file_name().into_string().unwrap();
                    let executable = metadata.permissions().mode() & 0o7333;
                    (name, executable, metadata.len())
                })
                .collect();
            all.sort();
            all
        }

        fn is_complete(&self) {
            let (runner, marker) = ("bb_runner".to_owned(), "installed".to_owned());
            let listing = self.listing();
            assert_eq!(listing[0], (runner, 0o111, 200_001));
            assert_eq!(
                (&listing[1].0, listing[1].2, listing.len()),
                (&marker, 0, 2)
            );
        }
    }

    #[test]
    fn the_program_is_installed_once_and_found_again() {
        let place = Place::new();
        assert_eq!(place.install().unwrap(), Installed::New);
        place.is_complete();
        let first = fs::metadata(place.bb().join("bb_runner")).unwrap();
        assert_eq!(place.install().unwrap(), Installed::Kept);
        place.is_complete();
        use std::os::unix::fs::MetadataExt as _;
        let second = fs::metadata(place.bb().join("bb_runner")).unwrap();
        assert_eq!(first.ino(), second.ino());
    }

    #[test]
    fn another_program_a_wrong_mode_and_leftovers_are_replaced() {
        let place = Place::new();
        let runner = place.bb().join("bb_runner");
        fs::write(&runner, "an older one").unwrap();
        fs::write(place.bb().join(".bb_runner.new"), "half").unwrap();
        // Whoever runs the old one goes on with it.
        let old = File::open(&runner).unwrap();
        assert_eq!(place.install().unwrap(), Installed::Replaced);
        place.is_complete();
        assert_eq!(io::read_to_string(old).unwrap(), "an older one");
        fs::set_permissions(&runner, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(place.install().unwrap(), Installed::Replaced);
        place.is_complete();
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_program_alone() {
        let place = Place::new();
        let runner = place.bb().join("bb_runner");
        fs::write(&runner, "an older one").unwrap();
        fs::create_dir(place.bb().join(".bb_runner.new")).unwrap();
        let error = place.install().unwrap_err().to_string();
        assert!(error.contains("cannot remove"), "{error}");
        assert_eq!(fs::read_to_string(&runner).unwrap(), "an older one");
        let missing = install(&place.program, &place.folder.path().join("none"));
        let error = missing.unwrap_err().to_string();
        assert!(error.contains("none/.bb_runner.new"), "{error}");
    }
}
