//! `hayloft storage stats` and `hayloft storage verify`: what a store holds, and
//! whether it is what it should be.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result};
use clap::Subcommand;
use storage::local::inspect::{self, Stats, Verified};

/// What can be done with a store besides serving it.
#[derive(Clone, Debug, Subcommand)]
pub enum Look {
    /// Count what a store holds. It may be in use.
    Stats {
        /// The store's directory, or the configuration that names it.
        store: PathBuf,
    },
    /// Read every blob and compare it with its digest. Damaged blobs are put aside,
    /// unless the store is in use: then it does that itself when it reads them.
    Verify {
        /// The store's directory, or the configuration that names it.
        store: PathBuf,
    },
}

/// Does it. The exit code says whether the store is sound.
///
/// # Errors
/// There is no store, or it cannot be read.
pub fn run(look: &Look) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match look {
        Look::Stats { store } => {
            print_stats(&mut out, &inspect::stats(&directory(store)?)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Look::Verify { store } => {
            let verified = inspect::verify(&directory(store)?, |_| {})?;
            print_verified(&mut out, &verified)?;
            Ok(ExitCode::from(u8::from(!verified.damaged.is_empty())))
        }
    }
}

fn directory(store: &Path) -> Result<PathBuf> {
    if store.is_dir() {
        return Ok(store.into());
    }
    let config: storage::Config = daemon::config::load(store)
        .with_context(|| format!("{} is no store's directory", store.display()))?;
    Ok(config.directory)
}

fn print_stats(out: &mut impl Write, stats: &Stats) -> Result<()> {
    for (function, count, bytes) in &stats.blobs {
        writeln!(out, "{function:<22} {count:>12} blobs {bytes:>16} bytes")?;
    }
    let bytes = stats.action_cache;
    writeln!(out, "{:<22} {bytes:>35} bytes", "action cache")?;
    if let Some(age) = stats.oldest.and_then(|oldest| {
        let age = SystemTime::now().duration_since(oldest);
        age.ok()
    }) {
        writeln!(out, "{:<22} {:>12} s ago", "longest unused", age.as_secs())?;
    }
    writeln!(
        out,
        "{:<22} {:>12}",
        "put aside as damaged", stats.quarantined
    )?;
    writeln!(out, "{:<22} {:>12}", "no blobs", stats.strangers)?;
    Ok(())
}

fn print_verified(out: &mut impl Write, verified: &Verified) -> Result<()> {
    for error in &verified.damaged {
        writeln!(out, "{error}")?;
    }
    let (count, bytes) = verified.good;
    let damaged = verified.damaged.len();
    writeln!(
        out,
        "{count} blobs of {bytes} bytes are right, {damaged} damaged"
    )?;
    if damaged > 0 && !verified.put_aside {
        writeln!(
            out,
            "The store is in use: it puts them aside when it reads them."
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use proto::{Digest, DigestFunction, InstanceName};
    use storage::BlobStore;
    use storage::local::{Blobs, Limits};

    #[tokio::test]
    async fn damaged_blobs_are_found_and_put_aside_when_nobody_uses_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits {
            disk: 1 << 20,
            memory: 0,
        };
        let store = Blobs::open(folder.path(), limits).unwrap();
        let instance = InstanceName::new("some/instance").unwrap();
        let blobs = ["right", "wrong"].map(|text| {
            let digest = Digest::of(DigestFunction::Sha256, text.as_bytes());
            (digest, text.into())
        });
        let wrong = blobs[1].0.hash();
        for written in store.write_batch(&instance, blobs.into()).await.unwrap() {
            written.unwrap();
        }
        let found = find(folder.path(), &wrong);
        fs::write(found, "wring").unwrap();
        let look = |verify| {
            let store = folder.path().to_path_buf();
            run(&if verify {
                Look::Verify { store }
            } else {
                Look::Stats { store }
            })
            .unwrap()
        };
        assert_eq!(look(false), ExitCode::SUCCESS);
        // In use, and then not.
        let failure = ExitCode::from(1);
        assert_eq!(look(true), failure);
        let stats = inspect::stats(folder.path()).unwrap();
        assert_eq!((stats.blobs[0].1, stats.quarantined), (2, 0));
        drop(store);
        assert_eq!(look(true), failure);
        let stats = inspect::stats(folder.path()).unwrap();
        assert_eq!((stats.blobs[0].1, stats.quarantined), (1, 1));
        assert_eq!(look(true), ExitCode::SUCCESS);

        let nothing = folder.path().join("incoming");
        assert!(run(&Look::Verify { store: nothing }).is_err());
    }

    fn find(folder: &Path, name: &str) -> PathBuf {
        let mut folders = vec![folder.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.to_str().unwrap().contains(name) {
                    return path;
                }
            }
        }
        panic!("no file {name}");
    }
}
