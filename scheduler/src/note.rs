//! The note that a scheduler runs, by which the next one knows that it did not end
//! in order.

use std::fs::{File, create_dir_all, remove_file};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// A file `running` in the state directory, if there is one.
#[derive(Debug)]
pub(crate) struct Note(Option<PathBuf>);

impl Note {
    /// Leaves the note, and tells whether there was one before.
    ///
    /// # Errors
    /// [`Error::State`].
    pub(crate) fn leave(directory: Option<&Path>) -> Result<(Self, bool), Error> {
        let Some(directory) = directory else {
            return Ok((Self(None), false));
        };
        let path = directory.join("running");
        let failed = |source| Error::State {
            path: path.clone(),
            source,
        };
        create_dir_all(directory).map_err(failed)?;
        let was_left = path.try_exists().map_err(failed)?;
        File::create(&path).map_err(failed)?;
        Ok((Self(Some(path)), was_left))
    }

    /// Takes it away: this scheduler has ended in order.
    pub(crate) fn remove(self) {
        if let Some(path) = self.0
            && let Err(error) = remove_file(&path)
        {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_found_unless_it_was_removed() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("state");
        let leave = || Note::leave(Some(&directory)).unwrap();
        let (note, was_left) = leave();
        assert!(!was_left);
        drop(note);
        let (note, was_left) = leave();
        assert!(was_left);
        note.remove();
        assert!(!leave().1);
        assert!(!Note::leave(None).unwrap().1);
    }

    #[test]
    fn a_directory_that_cannot_be_is_named() {
        let refused = Note::leave(Some(Path::new("/proc/no/such"))).unwrap_err();
        assert!(refused.to_string().contains("/proc/no/such"), "{refused}");
    }
}
