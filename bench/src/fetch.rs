//! Filling the worker's file cache from the embedded store, through the protocol,
//! against reading the same bytes from plain files and hashing them.
//!
//! Storage is a process of its own, as in a farm. Cached files are complete: named,
//! verified, of the cache's mode and time. Everything is in the page cache.
//!
//! *making* is the floor and making files besides, as the cache makes them: aside,
//! with their time, renamed into place; one after the other, without any storage.
//!
//! Small files are removed only when all is measured: where ext4 has no journal, it
//! looks at each inode that was freed in the last minutes before it makes another.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use proto::{Digest, DigestFunction, Hasher, InstanceName};
use storage::{BlobStore, RemoteStorage};
use tempfile::TempDir;
use worker::cache::{FileCache, Key, Limits, ReplacementPolicy, Tenant};
use worker::downloads::Downloads;

use crate::statistics::{milliseconds, quantile};

/// How much to measure.
#[derive(Args)]
pub struct Options {
    /// Small blobs fetched at once.
    #[arg(long, default_value_t = 10_000)]
    count: usize,
    /// The size of each, in bytes.
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// The size of the large blob, in MiB.
    #[arg(long, default_value_t = 1024)]
    large: usize,
    /// Rounds of floor and fetch.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let folder = tempfile::Builder::new()
        .prefix("hayloft-bench-")
        .tempdir()?;
    let context = runtime.enter();
    let storage = Storage::start(&folder)?;
    drop(context);
    println!(
        "{:>22} | {:>9} {:>9} {:>9} | {:>6} {:>8}",
        "", "floor ms", "making ms", "fetch ms", "/floor", "/making"
    );
    let small = (0..options.count).map(|n| (n, options.size)).collect();
    let large = vec![(usize::MAX, options.large << 20)];
    for (what, blobs) in [("small blobs", small), ("large blob", large)] {
        let blobs = Blobs::make(&folder.path().join(what), blobs)?;
        runtime.block_on(storage.upload(&blobs))?;
        let (mut floor, mut making, mut fetch) = (Vec::new(), Vec::new(), Vec::new());
        let mut kept = Vec::new();
        for _ in 0..options.rounds {
            floor.push(blobs.read_and_hash(None)?);
            let made = tempfile::tempdir_in(&folder)?;
            making.push(blobs.read_and_hash(Some(made.path()))?);
            let cache = tempfile::tempdir_in(&folder)?;
            fetch.push(runtime.block_on(storage.fetch(cache.path(), &blobs))?);
            if blobs.digests.len() > 1 {
                kept.extend([made, cache]);
            }
        }
        let [floor, making, fetch] =
            [&mut floor, &mut making, &mut fetch].map(|times| quantile(times, 0.5));
        println!(
            "{:>22} | {:>9.1} {:>9.1} {:>9.1} | {:>6.2} {:>8.2}",
            format!("{} {what}", blobs.digests.len()),
            milliseconds(floor),
            milliseconds(making),
            milliseconds(fetch),
            fetch.as_secs_f64() / floor.as_secs_f64(),
            fetch.as_secs_f64() / making.as_secs_f64(),
        );
    }
    Ok(())
}

/// Blobs as plain files.
struct Blobs {
    files: Vec<std::path::PathBuf>,
    digests: Vec<Digest>,
}

impl Blobs {
    /// Makes blobs that differ by number, of these sizes.
    fn make(folder: &Path, blobs: Vec<(usize, usize)>) -> Result<Self> {
        std::fs::create_dir(folder)?;
        let (mut files, mut digests) = (Vec::new(), Vec::new());
        for (n, size) in blobs {
            let mut bytes = vec![0; size];
            // Nothing that compresses away.
            let mut state = n as u64 ^ 0x9e37_79b9_7f4a_7c15;
            for word in bytes.chunks_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
            }
            let path = folder.join(n.to_string());
            std::fs::write(&path, &bytes)?;
            digests.push(Digest::of(DigestFunction::Sha256, &bytes));
            files.push(path);
        }
        Ok(Self { files, digests })
    }

    /// Reads each file and hashes it; with a folder, also makes it there.
    fn read_and_hash(&self, make: Option<&Path>) -> Result<Duration> {
        let aside = make.map(|folder| folder.join("aside"));
        if let Some(aside) = &aside {
            std::fs::create_dir(aside)?;
        }
        let mut buffer = vec![0; 1 << 20];
        let start = Instant::now();
        for (path, digest) in self.files.iter().zip(&self.digests) {
            let mut file = File::open(path)?;
            let made = aside.as_ref().map(|aside| aside.join(digest.hash()));
            let mut written = made.as_ref().map(File::create_new).transpose()?;
            let mut hasher = Hasher::new(DigestFunction::Sha256, digest.size());
            loop {
                let read = file.read(&mut buffer)?;
                if read == 0 {
                    break;
                }
                hasher.update(&buffer[..read]);
                if let Some(file) = &mut written {
                    std::io::Write::write_all(file, &buffer[..read])?;
                }
            }
            ensure!(hasher.finish() == *digest);
            if let (Some(file), Some(from), Some(folder)) = (written, made, make) {
                file.set_modified(std::time::UNIX_EPOCH)?;
                std::fs::rename(from, folder.join(digest.hash()))?;
            }
        }
        Ok(start.elapsed())
    }
}

/// The embedded store in a process of its own.
struct Storage {
    process: Child,
    store: Arc<RemoteStorage>,
}

impl Storage {
    fn start(folder: &TempDir) -> Result<Self> {
        let socket = folder.path().join("storage.socket");
        let config = folder.path().join("storage.json");
        std::fs::create_dir(folder.path().join("store"))?;
        let text = format!(
            r#"{{"directory": "{}", "internal_listen_addresses": ["unix:{}"]}}"#,
            folder.path().join("store").display(),
            socket.display(),
        );
        std::fs::write(&config, text)?;
        let process = Command::new(std::env::current_exe()?)
            .arg("storage")
            .arg(&config)
            .env("HAYLOFT_LOG", "error")
            .stdin(Stdio::null())
            .spawn()?;
        let started = Instant::now();
        while !socket.exists() {
            ensure!(started.elapsed() < Duration::from_secs(30), "no storage");
            std::thread::sleep(Duration::from_millis(5));
        }
        let address = format!("unix:{}", socket.display()).parse()?;
        // Connections belong to the runtime that makes the first call.
        let store = Arc::new(RemoteStorage::connect(&address, None)?);
        Ok(Self { process, store })
    }

    async fn upload(&self, blobs: &Blobs) -> Result<()> {
        let instance = InstanceName::empty();
        let all: Vec<_> = blobs.files.iter().zip(&blobs.digests).collect();
        for some in all.chunks(500) {
            let read = some.iter().map(|(path, digest)| {
                let bytes = Bytes::from(std::fs::read(path)?);
                Ok((**digest, bytes))
            });
            let blobs = read.collect::<Result<Vec<_>>>()?;
            for written in self.store.write_batch(&instance, blobs).await? {
                written?;
            }
        }
        Ok(())
    }

    /// Fetches everything into an empty cache.
    async fn fetch(&self, directory: &Path, blobs: &Blobs) -> Result<Duration> {
        let limits = Limits {
            bytes: u64::MAX,
            files: u64::MAX,
            policy: ReplacementPolicy::default(),
            tenant_components: 0,
            writable: false,
        };
        let downloads = Arc::new(Downloads::new(32));
        let cache = FileCache::open(directory, limits, self.store.clone(), downloads)?;
        let keys = blobs.digests.iter().map(|digest| Key {
            tenant: Tenant::SHARED,
            digest: *digest,
            executable: false,
        });
        let start = Instant::now();
        let pins = cache
            .acquire(&InstanceName::empty(), keys.collect())
            .await?;
        let time = start.elapsed();
        drop(pins);
        let held = cache.held();
        let expected = blobs.digests.len() as u64;
        ensure!(held.files == expected, "{held:?} of {expected} files");
        Ok(time)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait().context("storage");
    }
}
