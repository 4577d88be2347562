//! The neutral part of `/etc`.
//!
//! It is a copy, made when the runner starts: what programs need to find
//! libraries, certificates and alternatives, and nothing that tells one host
//! or user from another.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::Path;

/// Copied as they are, where they exist.
const COPIED: [&str; 18] = [
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "ssl/certs",
    "ssl/openssl.cnf",
    "pki/tls/certs",
    "pki/ca-trust/extracted",
    "ca-certificates",
    "ca-certificates.conf",
    "protocols",
    "services",
    "ethertypes",
    "debian_version",
    "os-release",
    "lsb-release",
    "xml",
    "fonts",
];

/// Directories copied by the beginning of their names.
const COPIED_PREFIXES: [&str; 2] = ["java", "python"];

/// Nothing neutral is larger than this in all.
const MOST_BYTES: u64 = 64 << 20;

/// What a machine and its boot are known by: the same everywhere, and of the form that
/// programs expect (`machine-id(5)`, RFC 9562).
const MACHINE_ID: &str = "6861796c6f6674000000000000000001\n";
pub(crate) const BOOT_ID: &str = "6861796c-6f66-4740-8000-000000000001\n";

/// How names are found on the host's network.
const OF_NETWORK: [&str; 2] = ["hosts", "resolv.conf"];

/// Fills `to` from the host's `from`, with `id` as the uid and gid of `build`.
/// `network`: commands are on the host's.
pub(crate) fn fill(from: &Path, to: &Path, id: u32, network: bool) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(0o755).create(to)?;
    let mut left = MOST_BYTES;
    for name in COPIED {
        copy_below(from, to, Path::new(name), &mut left)?;
    }
    let mut names: Vec<_> = std::fs::read_dir(from)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            COPIED_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
        .collect();
    names.sort();
    for name in names {
        copy_below(from, to, Path::new(&name), &mut left)?;
    }
    for (name, text) in generated(id) {
        let own = network
            .then_some(name)
            .filter(|name| OF_NETWORK.contains(name));
        // Often a link to where no command sees it.
        let text = match own.map(|name| std::fs::read_to_string(from.join(name))) {
            Some(Ok(text)) => text,
            _ => text,
        };
        write(&to.join(name), text.as_bytes())?;
    }
    symlink("/usr/share/zoneinfo/UTC", to.join("localtime"))?;
    symlink("/proc/self/mounts", to.join("mtab"))
}

/// `(name, content)` of the files that are made up.
fn generated(id: u32) -> Vec<(&'static str, String)> {
    let (user, group) = if id == 0 {
        (String::new(), String::new())
    } else {
        (
            format!("build:x:{id}:{id}:build:/tmp:/bin/sh\n"),
            format!("build:x:{id}:\n"),
        )
    };
    vec![
        (
            "passwd",
            format!(
                "root:x:0:0:root:/tmp:/bin/sh\n{user}\
                 nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
            ),
        ),
        ("group", format!("root:x:0:\n{group}nogroup:x:65534:\n")),
        (
            "hosts",
            "127.0.0.1 localhost\n::1 localhost ip6-localhost\n".to_owned(),
        ),
        ("hostname", "localhost\n".to_owned()),
        ("host.conf", "multi on\n".to_owned()),
        ("machine-id", MACHINE_ID.to_owned()),
        ("resolv.conf", String::new()),
        ("timezone", "Etc/UTC\n".to_owned()),
        (
            "nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\nnetworks: files\n\
             protocols: files\nservices: files\n"
                .to_owned(),
        ),
        ("shells", "/bin/sh\n/bin/bash\n".to_owned()),
    ]
}

fn copy_below(from: &Path, to: &Path, name: &Path, left: &mut u64) -> io::Result<()> {
    let source = from.join(name);
    if source.symlink_metadata().is_err() {
        return Ok(());
    }
    if let Some(parent) = name.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(to.join(parent))?;
    }
    copy(&source, &to.join(name), left)
}

/// Copies files, directories and links; skips what this user may not read and
/// what others than the owner may not.
fn copy(from: &Path, to: &Path, left: &mut u64) -> io::Result<()> {
    let metadata = from.symlink_metadata()?;
    let for_all = metadata.permissions().mode() & 0o004 != 0;
    if metadata.is_symlink() {
        symlink(std::fs::read_link(from)?, to)
    } else if !for_all {
        Ok(())
    } else if metadata.is_dir() {
        std::fs::DirBuilder::new().mode(0o755).create(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()), left)?;
        }
        Ok(())
    } else if metadata.is_file() {
        *left = left
            .checked_sub(metadata.len())
            .ok_or(io::Error::from(io::ErrorKind::FileTooLarge))?;
        write(to, &std::fs::read(from)?)
    } else {
        Ok(())
    }
}

pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    std::fs::write(path, content)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neutral_things_are_copied_and_others_are_not() {
        let directory = std::env::temp_dir().join(format!("sandbox-etc-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        let (from, to) = (directory.join("from"), directory.join("to"));
        std::fs::create_dir_all(from.join("ssl/certs")).unwrap();
        std::fs::create_dir_all(from.join("ssl/private")).unwrap();
        std::fs::create_dir_all(from.join("java-17")).unwrap();
        std::fs::write(from.join("ssl/certs/a.pem"), "a").unwrap();
        std::fs::write(from.join("ssl/private/key"), "k").unwrap();
        std::fs::write(from.join("ld.so.cache"), "c").unwrap();
        std::fs::write(from.join("shadow"), "s").unwrap();
        std::fs::write(from.join("machine-id"), "0123").unwrap();
        std::fs::write(from.join("passwd"), "someone:x:1:1::/:/bin/sh").unwrap();
        std::fs::write(from.join("resolv.conf"), "nameserver ::1").unwrap();
        fill(&from, &to, 1000, false).unwrap();
        assert_eq!(std::fs::read(to.join("ssl/certs/a.pem")).unwrap(), b"a");
        assert!(to.join("ld.so.cache").exists());
        assert!(to.join("java-17").is_dir());
        assert!(!to.join("ssl/private").exists());
        assert!(!to.join("shadow").exists());
        let read = |to: &Path, name| std::fs::read_to_string(to.join(name)).unwrap();
        assert_eq!(read(&to, "machine-id"), MACHINE_ID);
        assert_eq!(read(&to, "resolv.conf"), "");
        let shared = directory.join("shared");
        fill(&from, &shared, 1000, true).unwrap();
        assert_eq!(read(&shared, "resolv.conf"), "nameserver ::1");
        assert!(read(&shared, "hosts").contains("localhost"));
        let passwd = std::fs::read_to_string(to.join("passwd")).unwrap();
        assert!(passwd.contains("build:x:1000:1000:"));
        assert!(!passwd.contains("someone"));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
