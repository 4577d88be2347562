//! That the examples of `deploy/` and the pages about them hold together, with nothing
//! started: `containers` starts them.

mod agreement;
mod configurations;
mod kubernetes;
mod migration;
mod readme;

use std::fs;
use std::path::{Path, PathBuf};

/// The sources of the project.
fn project() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    path.canonicalize().expect("the project")
}

/// A file of the project's.
fn text(path: &str) -> String {
    fs::read_to_string(project().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files in a folder of the project's and below it, by their names' ends.
fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let all = walkdir::WalkDir::new(project().join(folder)).sort_by_file_name();
    let all = all.into_iter().map(|entry| entry.expect("an entry"));
    let files: Vec<_> = all
        .map(walkdir::DirEntry::into_path)
        .filter(|path| path.is_file() && path.to_string_lossy().ends_with(end))
        .collect();
    assert!(!files.is_empty(), "no {end} in {folder}");
    files
}
