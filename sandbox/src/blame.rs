//! Why nothing could be executed: `execve(2)` says "no such file" of a script whose
//! interpreter is missing, and "permission denied" of a directory.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

/// Most bytes of a first line that the kernel looks at (`BINPRM_BUF_SIZE`).
const FIRST_LINE: usize = 256;

/// The errno that fits, and the file it is about. `errno` is what executing the
/// first of the candidates that exists gave.
pub(crate) fn blame(candidates: &[CString], errno: Errno) -> (Errno, String) {
    let existing = candidates.iter().find_map(|candidate| {
        let path = Path::new(std::ffi::OsStr::from_bytes(candidate.to_bytes()));
        Some((path, path.metadata().ok()?))
    });
    let Some((path, metadata)) = existing else {
        return (errno, String::new());
    };
    let name = path.display();
    if metadata.is_dir() {
        return (Errno::EISDIR, name.to_string());
    }
    let executable = access(path, AccessFlags::X_OK).is_ok();
    match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES if executable => match interpreter(path) {
            Some(interpreter) => (errno, format!("{name}: its interpreter {interpreter}")),
            None => (errno, name.to_string()),
        },
        Errno::ENOEXEC if metadata.size() == 0 => (errno, format!("{name}, which is empty")),
        Errno::ENOEXEC => (
            errno,
            format!("{name}, which is neither a program for this machine nor begins with #!"),
        ),
        errno => (errno, name.to_string()),
    }
}

/// The program that a script names, or the loader that a dynamic program does.
fn interpreter(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    let mut start = vec![0; FIRST_LINE];
    let length = file.read_at(&mut start, 0).ok()?;
    start.truncate(length);
    let bytes = if let Some(line) = start.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?;
        let word = line.trim_ascii_start();
        let end = word.iter().position(u8::is_ascii_whitespace);
        word[..end.unwrap_or(word.len())].to_vec()
    } else {
        loader(&file, &start)?
    };
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `PT_INTERP` of a 64-bit program of this machine's byte order (`elf(5)`).
fn loader(file: &File, start: &[u8]) -> Option<Vec<u8>> {
    const CLASS_64: u8 = 2;
    const INTERPRETER: u32 = 3;
    const ENTRY: usize = 56;
    start.starts_with(b"\x7fELF").then_some(())?;
    (*start.get(4)? == CLASS_64).then_some(())?;
    let entries = u64::from_ne_bytes(start.get(32..40)?.try_into().ok()?);
    let count = u16::from_ne_bytes(start.get(56..58)?.try_into().ok()?);
    for index in 0..u64::from(count) {
        let mut entry = [0; ENTRY];
        let place = entries.checked_add(index * ENTRY as u64)?;
        file.read_exact_at(&mut entry, place).ok()?;
        if u32::from_ne_bytes(entry[0..4].try_into().ok()?) != INTERPRETER {
            continue;
        }
        let offset = u64::from_ne_bytes(entry[8..16].try_into().ok()?);
        let size = u64::from_ne_bytes(entry[32..40].try_into().ok()?).min(4096);
        let mut path = vec![0; usize::try_from(size).ok()?];
        file.read_exact_at(&mut path, offset).ok()?;
        path.retain(|byte| *byte != 0);
        return Some(path);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_at_fault_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8], mode| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, mode).unwrap();
            CString::new(path.as_os_str().as_bytes()).unwrap()
        };
        let none = CString::new(directory.path().join("none").as_os_str().as_bytes()).unwrap();
        let folder = CString::new(directory.path().as_os_str().as_bytes()).unwrap();
        let script = file("script", b"#! /none/sh -e\nexit", 0o755);
        let empty = file("empty", b"", 0o755);
        let (errno, detail) = blame(&[none.clone(), script], Errno::ENOENT);
        assert_eq!(errno, Errno::ENOENT);
        assert!(
            detail.ends_with("script: its interpreter /none/sh"),
            "{detail}"
        );
        let (_, detail) = blame(&[empty], Errno::ENOEXEC);
        assert!(detail.ends_with("empty, which is empty"), "{detail}");
        assert_eq!(blame(&[folder], Errno::EACCES).0, Errno::EISDIR);
        assert_eq!(
            blame(&[none], Errno::ENOENT),
            (Errno::ENOENT, String::new())
        );
    }

    #[test]
    fn the_loader_of_a_dynamic_program_is_found() {
        let loader = interpreter(Path::new("/bin/sh")).unwrap();
        assert!(Path::new(&loader).exists(), "{loader}");
    }
}
