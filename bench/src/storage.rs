//! What the embedded store and its client cost beyond the bytes they move.
//!
//! A storage daemon on a unix socket, and the client of workers before it. Each
//! measurement alternates with its floor, in rounds:
//!
//! - a large blob, by ByteStream, against hashing the same file and copying it;
//! - many small blobs, by batch, against hashing them and writing each as a file;
//! - which of many blobs are missing, and action-cache hits whose outputs are
//!   checked, against unary calls with the same messages that do nothing.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use daemon::{Address, Shutdown};
use futures::{StreamExt, TryStreamExt};
use proto::wire::rev2;
use proto::{Digest, DigestFunction, Hasher, InstanceName};
use storage::{ActionCache, BlobStore, Config, RemoteStorage};

use crate::empty_calls::EmptyCalls;
use crate::statistics::quantile;

/// How much to measure.
#[derive(Args)]
pub struct Options {
    /// The large blob, in MiB.
    #[arg(long, default_value_t = 1024)]
    large: u64,
    /// Small blobs of 4 KiB.
    #[arg(long, default_value_t = 50_000)]
    small: usize,
    /// Digests that are asked for.
    #[arg(long, default_value_t = 100_000)]
    digests: usize,
    /// Action-cache hits.
    #[arg(long, default_value_t = 20_000)]
    hits: usize,
    /// Rounds of everything.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where the store and the floors' files are [default: the temporary directory].
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

const SMALL: usize = 4096;
const PIECE: usize = 1 << 20;
/// Calls at a time, of ours and of the floor.
const PARALLEL: usize = 16;
/// What the client puts into one FindMissingBlobs, and how many it makes at a time.
const PAGE: usize = 10_000;
const PAGES: usize = 4;

/// Times of one thing and of its floor.
#[derive(Default)]
struct Pair {
    ours: Vec<Duration>,
    floor: Vec<Duration>,
}

impl Pair {
    fn add(&mut self, ours: Duration, floor: Duration) {
        self.ours.push(ours);
        self.floor.push(floor);
    }

    fn print(&mut self, name: &str) {
        let ratios = self.ours.iter().zip(&self.floor);
        let mut ratios: Vec<f64> = ratios
            .map(|(ours, floor)| ours.as_secs_f64() / floor.as_secs_f64())
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let ours = quantile(&mut self.ours, 0.5).as_secs_f64();
        let floor = quantile(&mut self.floor, 0.5).as_secs_f64();
        let first = ratios.first().copied().unwrap_or(f64::NAN);
        let last = ratios.last().copied().unwrap_or(f64::NAN);
        let middle = ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN);
        println!(
            "{name:<34} {ours:>8.3} s, floor {floor:>8.3} s: {middle:>6.2} ({first:.2} to {last:.2}), \
             as a rate {:.2}",
            1.0 / middle
        );
    }
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let folder = match &options.directory {
        Some(directory) => tempfile::tempdir_in(directory)?,
        None => tempfile::tempdir()?,
    };
    runtime.block_on(measure(options, folder.path()))
}

async fn measure(options: &Options, folder: &Path) -> Result<()> {
    let socket = Address::Unix(folder.join("socket"));
    let shutdown = Shutdown::new();
    let config = Config {
        internal_listen_addresses: vec![socket.clone().into()],
        ..Config::new(folder.join("store"))
    };
    let serving = tokio::spawn(storage::program::run(config, shutdown.clone()));
    let client = RemoteStorage::connect(&socket.into(), None)?;
    let empty = EmptyCalls::start(&folder.join("empty")).await?;

    let mut pairs: [Pair; 6] = Default::default();
    for round in 0..=options.rounds {
        let mut times = Vec::new();
        times.extend(large(&client, options.large << 20, round, folder).await?);
        let (written, digests) = small(&client, options.small, round, folder).await?;
        times.push(written);
        times.push(missing(&client, &empty, options.digests, &digests).await?);
        let action = cache(&client).await?;
        for parallel in [1, PARALLEL] {
            times.push(hits(&client, &empty, action, options.hits, parallel).await?);
        }
        // The first warms up.
        if round > 0 || options.rounds == 0 {
            for (pair, (ours, floor)) in pairs.iter_mut().zip(times) {
                pair.add(ours, floor);
            }
        }
    }
    let names = [
        format!("write {} MiB", options.large),
        format!("read {} MiB", options.large),
        format!("write {} blobs of 4 KiB", options.small),
        format!("find {} digests", options.digests),
        format!("{} cache hits, 1 at a time", options.hits),
        format!("{} cache hits, {PARALLEL} at a time", options.hits),
    ];
    for (name, pair) in names.iter().zip(&mut pairs) {
        pair.print(name);
    }
    shutdown.cancel();
    drop(client);
    serving.await??;
    Ok(())
}

type Times = (Duration, Duration);

/// Bytes that do not repeat, another lot for each seed.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes()[..word.len()]);
        }
    }
}

fn hash(path: &Path, size: u64) -> Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new(DigestFunction::Sha256, size);
    let mut buffer = vec![0; PIECE];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// A large blob, written and read back.
async fn large(
    client: &RemoteStorage,
    size: u64,
    round: usize,
    folder: &Path,
) -> Result<[Times; 2]> {
    let path = folder.join("large");
    let (from, to) = (path.clone(), folder.join("copy"));
    let floor = move || -> Result<(Digest, Duration)> {
        let mut noise = Noise(round as u64 + 1);
        let mut file = File::create(&from)?;
        let mut piece = vec![0; PIECE];
        for _ in 0..size / PIECE as u64 {
            noise.fill(&mut piece);
            file.write_all(&piece)?;
        }
        // Once before it counts: memory that the host of a virtual machine has yet to
        // give it would be charged to whoever comes first.
        let mut measured = None;
        for _ in 0..2 {
            let start = Instant::now();
            let digest = hash(&from, size)?;
            // Not `fs::copy`: where the file system shares blocks it copies none.
            let (read, mut write) = (File::open(&from)?, File::create(&to)?);
            for piece_number in 0..size / PIECE as u64 {
                read.read_exact_at(&mut piece, piece_number * PIECE as u64)?;
                write.write_all(&piece)?;
            }
            measured = Some((digest, start.elapsed()));
            fs::remove_file(&to)?;
        }
        let (digest, time) = measured.context("a measurement")?;
        Ok((digest, time))
    };
    let (digest, floor) = tokio::task::spawn_blocking(floor).await??;
    let instance = InstanceName::empty();

    let start = Instant::now();
    let file = Arc::new(File::open(&path)?);
    let source = Arc::new(move |offset| file_pieces(file.clone(), offset, size));
    client.write_from(&instance, digest, source).await?;
    let written = start.elapsed();

    let start = Instant::now();
    let mut read = client.read(&instance, digest, 0, None).await?;
    let mut count = 0;
    while let Some(piece) = read.try_next().await? {
        count += piece.len() as u64;
    }
    let read = start.elapsed();
    ensure!(count == size, "{count} bytes came back");
    Ok([(written, floor), (read, floor)])
}

fn file_pieces(file: Arc<File>, offset: u64, size: u64) -> storage::ByteStream {
    futures::stream::try_unfold((file, offset), move |(file, offset)| async move {
        if offset >= size {
            return Ok(None);
        }
        let reading = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE];
            file.read_exact_at(&mut piece, offset)?;
            Ok((file, piece))
        });
        let read = reading.await.map_err(std::io::Error::other);
        let read: std::io::Result<_> = read.and_then(|read| read);
        let (file, piece) = read.map_err(|reason| storage::Error::File {
            operation: "read",
            path: "large".into(),
            reason,
        })?;
        let next = offset + piece.len() as u64;
        Ok(Some((Bytes::from(piece), (file, next))))
    })
    .boxed()
}

/// Many small blobs; gives their digests too.
async fn small(
    client: &RemoteStorage,
    count: usize,
    round: usize,
    folder: &Path,
) -> Result<(Times, Vec<Digest>)> {
    let mut noise = Noise(round as u64 + 1001);
    let contents: Vec<Bytes> = (0..count)
        .map(|_| {
            let mut bytes = vec![0; SMALL];
            noise.fill(&mut bytes);
            bytes.into()
        })
        .collect();
    // They stay until all is measured: ext4 looks around for inodes that were not freed
    // just now, and whoever creates files next would pay for their removal.
    let files = folder.join(format!("files-{round}"));
    let floor_contents = contents.clone();
    let floor = move || -> Result<Duration> {
        for number in 0..256 {
            fs::create_dir_all(files.join(format!("{number:02x}")))?;
        }
        let start = Instant::now();
        for bytes in floor_contents {
            let name = Digest::of(DigestFunction::Sha256, &bytes).hash();
            fs::write(files.join(&name[..2]).join(&name), &bytes)?;
        }
        Ok(start.elapsed())
    };
    let floor = tokio::task::spawn_blocking(floor).await??;
    let blobs: Vec<(Digest, Bytes)> = contents
        .into_iter()
        .map(|bytes| (Digest::of(DigestFunction::Sha256, &bytes), bytes))
        .collect();
    let digests = blobs.iter().map(|(digest, _)| *digest).collect();
    let start = Instant::now();
    let written = client.write_batch(&InstanceName::empty(), blobs).await?;
    let time = start.elapsed();
    written.into_iter().collect::<Result<(), _>>()?;
    Ok(((time, floor), digests))
}

/// Which of many are missing: those that are there as often as it takes.
async fn missing(
    client: &RemoteStorage,
    empty: &EmptyCalls,
    count: usize,
    there: &[Digest],
) -> Result<Times> {
    let mut asked = there.to_vec();
    for number in asked.len()..count {
        let bytes = number.to_le_bytes();
        asked.push(Digest::of(DigestFunction::Sha256, &bytes));
    }
    asked.truncate(count);
    // The same messages, made before: the floor is to carry them and no more.
    let pages = asked
        .chunks(PAGE)
        .map(|page| rev2::FindMissingBlobsRequest {
            blob_digests: page.iter().map(Digest::to_wire).collect(),
            ..Default::default()
        });
    let pages: Vec<_> = pages.collect();
    let answers = asked.chunks(PAGE).enumerate().map(|(at, page)| {
        let known = there.len().saturating_sub(at * PAGE).min(page.len());
        rev2::FindMissingBlobsResponse {
            missing_blob_digests: page[known..].iter().map(Digest::to_wire).collect(),
        }
    });
    empty.prepare(answers.collect());
    let start = Instant::now();
    let pages = futures::stream::iter(pages).map(|page| empty.find(page));
    let told: Vec<usize> = pages.buffer_unordered(PAGES).try_collect().await?;
    let floor = start.elapsed();
    ensure!(told.iter().sum::<usize>() == count.saturating_sub(there.len()));
    let start = Instant::now();
    let missing = client.find_missing(&InstanceName::empty(), &asked).await?;
    let time = start.elapsed();
    ensure!(missing.len() == count.saturating_sub(there.len()));
    Ok((time, floor))
}

/// Stores a result with outputs.
async fn cache(client: &RemoteStorage) -> Result<Digest> {
    let instance = InstanceName::empty();
    let output = Bytes::from_static(b"what the action wrote");
    let digest = Digest::of(DigestFunction::Sha256, &output);
    let written = client
        .write_batch(&instance, vec![(digest, output)])
        .await?;
    written.into_iter().collect::<Result<(), _>>()?;
    let action = Digest::of(DigestFunction::Sha256, b"action");
    client.update(&instance, action, result(digest)).await?;
    Ok(action)
}

fn result(output: Digest) -> rev2::ActionResult {
    let file = |path: &str| rev2::OutputFile {
        path: path.into(),
        digest: Some(output.to_wire()),
        ..Default::default()
    };
    rev2::ActionResult {
        output_files: vec![file("out/a.o"), file("out/a.d")],
        stdout_digest: Some(output.to_wire()),
        ..Default::default()
    }
}

async fn hits(
    client: &RemoteStorage,
    empty: &EmptyCalls,
    action: Digest,
    count: usize,
    parallel: usize,
) -> Result<Times> {
    let instance = InstanceName::empty();
    let found = client.get(&instance, action).await?.context("a result")?;
    let answer = result(Digest::of(DigestFunction::Sha256, b""));
    let start = Instant::now();
    let calls = futures::stream::iter(0..count).map(|_| empty.give(&action, &answer));
    calls.buffer_unordered(parallel).try_collect::<()>().await?;
    let floor = start.elapsed();
    let start = Instant::now();
    let calls = futures::stream::iter(0..count).map(|_| client.get(&instance, action));
    let mut calls = calls.buffer_unordered(parallel);
    while let Some(hit) = calls.try_next().await? {
        ensure!(hit.as_ref() == Some(&found), "another result");
    }
    Ok((start.elapsed(), floor))
}
