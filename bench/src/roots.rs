//! What input roots cost.
//!
//! Roots of directories of a hundred files, and those a hundred to a directory, go through a whole `hayloft up`; all their
//! files and Directory messages are known to the worker beforehand. The time is that
//! of the worker's stage "fetching inputs". *New*: at a path where nothing was made
//! before. *Changed*: as the one before, but for one file. The floor is a loop of
//! `linkat` over as many files into as many directories, on the same disk.
//!
//! Then whole actions that read every file of a root, two at a time,
//! with reuse and without: setting up and cleaning up are part of the time.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use hayloft::client::{Client, Spec, blob};
use nix::fcntl::AtFlags;
use nix::unistd::linkat;
use proto::messages::system_time;
use proto::wire::rev2::{self, Directory, DirectoryNode, FileNode};
use proto::{Digest, DigestFunction};

use crate::farm::Farm;
use crate::statistics::{milliseconds, quantile};

/// How much to measure.
#[derive(Args)]
pub struct Options {
    /// Files of a root.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000")]
    files: Vec<usize>,
    /// How often each is measured.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Whole actions, with reuse and without, in each round.
    #[arg(long, default_value_t = 40)]
    actions: usize,
    /// Files that each of these reads.
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    read: Vec<usize>,
}

/// Files, or directories, of a directory.
const FOLDER: usize = 100;

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    // Connections belong to a runtime.
    let _context = runtime.enter();
    println!(
        "{:>8} {:>9} {:>9} {:>10} | {:>8} {:>12}",
        "files", "linkat ms", "new ms", "changed ms", "new/loop", "changed/loop"
    );
    for files in &options.files {
        let farm = Farm::start(1)?;
        let mut floor = Vec::new();
        let (mut new, mut changed) = (Vec::new(), Vec::new());
        let client = farm.client()?;
        let packages = runtime.block_on(upload(&client, *files))?;
        // Everything is in the cache and in memory after this.
        runtime.block_on(fetching(&client, &packages, "warm", None))?;
        for round in 0..options.rounds {
            floor.push(loop_of_links(*files)?);
            let path = format!("round-{round}");
            new.push(runtime.block_on(fetching(&client, &packages, &path, None))?);
            let change = Some(round);
            changed.push(runtime.block_on(fetching(&client, &packages, &path, change))?);
        }
        let p50 = |samples: &mut Vec<Duration>| milliseconds(quantile(samples, 0.5));
        let (floor, new, changed) = (p50(&mut floor), p50(&mut new), p50(&mut changed));
        println!(
            "{files:>8} {floor:>9.2} {new:>9.2} {changed:>10.2} | {:>8.2} {:>12.4}",
            new / floor,
            changed / floor
        );
    }
    let farms = [Farm::start(2)?, Farm::start_with(2, &["--no-reuse"])?];
    for read in &options.read {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for farm in &farms {
            runtime.block_on(reading(farm, *read, 4, "warm"))?;
        }
        for round in 0..options.rounds {
            let salt = round.to_string();
            let actions = options.actions;
            with.push(runtime.block_on(reading(&farms[0], *read, actions, &salt))?);
            without.push(runtime.block_on(reading(&farms[1], *read, actions, &salt))?);
        }
        let count = f64::from(u32::try_from(options.actions)?);
        let each = |samples: &mut Vec<Duration>| milliseconds(quantile(samples, 0.5)) / count;
        let (with, without) = (each(&mut with), each(&mut without));
        println!(
            "actions that read {read} files: {with:.2} ms each with reuse, {without:.2} ms without: {:.2}",
            with / without
        );
    }
    Ok(())
}

fn content(n: usize) -> Bytes {
    Bytes::from(format!("file number {n}\n"))
}

/// Directories of files, as messages without names.
struct Packages(Vec<Directory>);

/// Uploads files, and the messages of directories that hold them.
async fn upload(client: &Client, files: usize) -> Result<Packages> {
    let mut packages = Vec::new();
    let mut at = 0;
    while at < files {
        let range = at..(at + FOLDER).min(files);
        let mut blobs = Vec::new();
        let mut directory = Directory::default();
        for n in range.clone() {
            let bytes = content(n);
            let digest = Digest::of(DigestFunction::Sha256, &bytes);
            blobs.push((digest, bytes));
            directory.files.push(FileNode {
                name: format!("source-{:06}.c", n - at),
                digest: Some(digest.to_wire()),
                ..FileNode::default()
            });
        }
        blobs.push(blob(&directory));
        client.upload(blobs).await?;
        packages.push(directory);
        at = range.end;
    }
    Ok(Packages(packages))
}

/// Uploads a root that has the packages at a path, one file being another's copy if
/// that is asked for.
async fn upload_root(
    client: &Client,
    packages: &Packages,
    path: &str,
    change: Option<usize>,
) -> Result<Digest> {
    let mut messages = Vec::new();
    let mut all = Directory::default();
    for (n, portion) in packages.0.chunks(FOLDER).enumerate() {
        let mut group = Directory::default();
        for (place, package) in portion.iter().enumerate() {
            let number = n * FOLDER + place;
            let (mut digest, _) = blob(package);
            if let Some(change) = change.filter(|change| change % packages.0.len() == number) {
                let mut package = package.clone();
                let other = package.files[(change + 1) % package.files.len()]
                    .digest
                    .clone();
                let place = change % package.files.len();
                package.files[place].digest = other;
                let message = blob(&package);
                digest = message.0;
                messages.push(message);
            }
            group.directories.push(DirectoryNode {
                name: format!("package-{number:06}"),
                digest: Some(digest.to_wire()),
            });
        }
        let group = blob(&group);
        all.directories.push(DirectoryNode {
            name: format!("group-{n:04}"),
            digest: Some(group.0.to_wire()),
        });
        messages.push(group);
    }
    let all = blob(&all);
    let root = blob(&Directory {
        directories: vec![DirectoryNode {
            name: path.into(),
            digest: Some(all.0.to_wire()),
        }],
        ..Directory::default()
    });
    let digest = root.0;
    messages.extend([all, root]);
    client.upload(messages).await?;
    Ok(digest)
}

async fn execute(client: &Client, spec: &Spec, root: Digest) -> Result<rev2::ActionResult> {
    let action = client.upload_action(spec, root).await?;
    let response = client.execute(action, false, |_| {}).await?;
    let status = response.status.unwrap_or_default();
    ensure!(status.code == 0, "an action failed: {}", status.message);
    let result = response.result.context("an action without a result")?;
    ensure!(result.exit_code == 0, "exit code {}", result.exit_code);
    Ok(result)
}

/// How long the worker took to bring an action's inputs.
async fn fetching(
    client: &Client,
    packages: &Packages,
    path: &str,
    change: Option<usize>,
) -> Result<Duration> {
    let root = upload_root(client, packages, path, change).await?;
    let spec = Spec {
        arguments: vec!["/usr/bin/true".into()],
        do_not_cache: true,
        ..Spec::default()
    };
    let result = execute(client, &spec, root).await?;
    let facts = result.execution_metadata.context("no metadata")?;
    let moment = |time: Option<_>| time.as_ref().and_then(system_time).context("no time");
    let start = moment(facts.input_fetch_start_timestamp)?;
    let end = moment(facts.input_fetch_completed_timestamp)?;
    Ok(end.duration_since(start)?)
}

/// How long it takes to link so many files into new directories, and no more.
fn loop_of_links(files: usize) -> Result<Duration> {
    let folder = tempfile::Builder::new()
        .prefix("hayloft-bench-")
        .tempdir()?;
    let cache = folder.path().join("cache");
    fs::create_dir(&cache)?;
    for n in 0..files {
        fs::write(cache.join(n.to_string()), content(n))?;
    }
    let open = |path: &Path| fs::File::open(path);
    let from = open(&cache)?;
    let names: Vec<_> = (0..files)
        .map(|n| (n.to_string(), format!("source-{:06}.c", n % FOLDER)))
        .collect();
    let root = folder.path().join("root");
    let start = Instant::now();
    fs::create_dir(&root)?;
    for (n, portion) in names.chunks(FOLDER).enumerate() {
        let directory = root.join(format!("package-{n:06}"));
        fs::create_dir(&directory)?;
        let directory = open(&directory)?;
        for (name, link) in portion {
            let flags = AtFlags::empty();
            linkat(
                &from,
                name.as_str(),
                directory.as_fd(),
                link.as_str(),
                flags,
            )?;
        }
    }
    Ok(start.elapsed())
}

/// Runs so many actions that read all of a root of so many files, two at a time.
async fn reading(farm: &Farm, read: usize, actions: usize, salt: &str) -> Result<Duration> {
    let client = farm.client()?;
    let packages = upload(&client, read).await?;
    let root = upload_root(&client, &packages, "all", None).await?;
    let start = Instant::now();
    let halves = (0..2).map(|half| {
        let (client, salt) = (client.clone(), salt.to_owned());
        tokio::spawn(async move {
            for n in 0..actions.div_ceil(2) {
                // Few programs do little more than read: cat maps memory for each file.
                let script = format!("! grep -rF nowhere all # {salt} {half} {n}");
                let spec = Spec {
                    arguments: vec!["/bin/sh".into(), "-c".into(), script],
                    do_not_cache: true,
                    ..Spec::default()
                };
                execute(&client, &spec, root).await?;
            }
            anyhow::Ok(())
        })
    });
    for half in halves.collect::<Vec<_>>() {
        half.await??;
    }
    Ok(start.elapsed())
}
