//! What a worker's memory grows to when all its slots have large input roots, all
//! different, over the same blobs.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use hayloft::client::{Client, Spec, blob};
use proto::wire::rev2::{Directory, DirectoryNode, FileNode};
use proto::{Digest, DigestFunction};

use crate::farm::Farm;

/// How much to measure.
#[derive(Args)]
pub struct Options {
    /// The farm's slots, and actions at a time.
    #[arg(long, default_value_t = 16)]
    slots: u16,
    /// Blobs, all of them in every root.
    #[arg(long, default_value_t = 100_000)]
    blobs: usize,
    /// Files of a directory.
    #[arg(long, default_value_t = 100)]
    files: usize,
    /// How long each action runs, in seconds, so that all roots are there together.
    #[arg(long, default_value_t = 20)]
    seconds: u16,
    /// Fails if the worker's memory grows beyond this, in MiB.
    #[arg(long)]
    limit: Option<u64>,
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let farm = Farm::start(options.slots)?;
    let peak = runtime.block_on(measure(&farm, options))?;
    println!(
        "{} slots with different roots over the same {} blobs: the worker's memory at most {} MiB",
        options.slots,
        options.blobs,
        peak >> 10
    );
    if let Some(limit) = options.limit {
        ensure!(peak >> 10 < limit, "more than {limit} MiB");
    }
    Ok(())
}

async fn measure(farm: &Farm, options: &Options) -> Result<u64> {
    let client = farm.client()?;
    let content = |n: usize| Bytes::from(format!("file number {n}\n"));
    let digest = |n| Digest::of(DigestFunction::Sha256, &content(n));
    let digests: Vec<Digest> = (0..options.blobs).map(digest).collect();
    for portion in (0..options.blobs).collect::<Vec<_>>().chunks(10_000) {
        let blobs = portion.iter().map(|n| (digests[*n], content(*n)));
        client.upload(blobs.collect()).await?;
    }
    let mut actions = Vec::new();
    for slot in 0..options.slots {
        let root = upload_root(&client, slot, &digests, options.files).await?;
        let spec = Spec {
            arguments: vec!["/usr/bin/sleep".into(), options.seconds.to_string()],
            do_not_cache: true,
            ..Spec::default()
        };
        actions.push(client.upload_action(&spec, root).await?);
    }
    let executed = actions.into_iter().map(|action| {
        let client = client.clone();
        tokio::spawn(async move { client.execute(action, false, |_| {}).await })
    });
    let executed: Vec<_> = executed.collect();
    for execution in executed {
        let response = execution.await??;
        let status = response.status.unwrap_or_default();
        ensure!(status.code == 0, "an action failed: {}", status.message);
    }
    worker_peak(farm)
}

/// A root of directories that no other root has.
async fn upload_root(
    client: &Client,
    slot: u16,
    digests: &[Digest],
    files: usize,
) -> Result<Digest> {
    let mut root = Directory::default();
    let mut messages = Vec::new();
    for (n, portion) in digests.chunks(files).enumerate() {
        let mut directory = Directory::default();
        for (k, digest) in portion.iter().enumerate() {
            directory.files.push(FileNode {
                name: format!("source-{slot:02}-{k:06}.c"),
                digest: Some(digest.to_wire()),
                ..FileNode::default()
            });
        }
        let (digest, bytes) = blob(&directory);
        root.directories.push(DirectoryNode {
            name: format!("package-{n:06}"),
            digest: Some(digest.to_wire()),
        });
        messages.push((digest, bytes));
    }
    let (digest, bytes) = blob(&root);
    messages.push((digest, bytes));
    client.upload(messages).await?;
    Ok(digest)
}

/// The most memory that the farm's worker ever had, in KiB (`VmHWM`, proc(5)).
fn worker_peak(farm: &Farm) -> Result<u64> {
    let mut family = BTreeSet::from([farm.id()]);
    let mut peak = None;
    // Children have been started after their parents; pids may wrap, so twice.
    for _ in 0..2 {
        for entry in std::fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else {
                continue;
            };
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name))?;
                line.split_whitespace().next()?.parse::<u64>().ok()
            };
            if field("PPid:").is_some_and(|parent| family.contains(&parent)) {
                family.insert(pid);
                let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                if arguments.split(|byte| *byte == 0).nth(1) == Some(b"worker") {
                    peak = field("VmHWM:");
                }
            }
        }
    }
    peak.context("the farm has no worker")
}
