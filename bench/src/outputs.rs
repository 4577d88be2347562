//! What collecting and storing an action's outputs costs.
//!
//! An action writes bytes that the farm has never seen: many small files in a
//! directory, or one large file. What is measured is the stage that follows, as the
//! worker's timestamps tell it: finding, hashing and uploading them to the embedded
//! store, which hashes them again and writes them. The floor, in rounds that
//! alternate with it: writing as many bytes into as many files and hashing them with
//! SHA-256, one after the other, in this process.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use hayloft::client::inputs::Inputs;
use hayloft::client::{Client, Spec};
use proto::messages::system_time;
use proto::{Digest, DigestFunction};

use crate::farm::Farm;
use crate::statistics::{milliseconds, quantile};

/// How much to measure.
#[derive(Args)]
pub struct Options {
    /// Small files of one action.
    #[arg(long, default_value_t = 1000)]
    files: usize,
    /// The size of each, in bytes.
    #[arg(long, default_value_t = 4096)]
    file_size: usize,
    /// The size of the large file, in bytes.
    #[arg(long, default_value_t = 1 << 30)]
    large_size: usize,
    /// Rounds of each.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// The outputs of one action.
struct Case {
    name: String,
    files: usize,
    size: usize,
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    // Connections belong to a runtime.
    let _context = runtime.enter();
    let farm = Farm::start(1)?;
    let client = farm.client()?;
    let cases = [
        Case {
            name: format!("{} files of {} bytes", options.files, options.file_size),
            files: options.files,
            size: options.file_size,
        },
        Case {
            name: format!("one of {} bytes", options.large_size),
            files: 1,
            size: options.large_size,
        },
    ];
    println!(
        "{:>26} {:>12} {:>12} {:>12} | {:>7}",
        "outputs", "upload ms", "write ms", "sha2 ms", "ratio"
    );
    for case in cases {
        let (mut stages, mut writes, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..options.rounds {
            let (write, hash) = floor(&case)?;
            writes.push(write);
            hashes.push(hash);
            stages.push(runtime.block_on(action(&client, &case, round))?);
        }
        let [stage, write, hash] =
            [&mut stages, &mut writes, &mut hashes].map(|times| quantile(times, 0.5));
        println!(
            "{:>26} {:>12.1} {:>12.1} {:>12.1} | {:>7.2}",
            case.name,
            milliseconds(stage),
            milliseconds(write),
            milliseconds(hash),
            stage.as_secs_f64() / (write + hash).as_secs_f64()
        );
    }
    Ok(())
}

/// How long writing and hashing take.
fn floor(case: &Case) -> Result<(Duration, Duration)> {
    let folder = tempfile::tempdir()?;
    let mut bytes = vec![0; case.size];
    let (mut write, mut hash) = (Duration::ZERO, Duration::ZERO);
    for file in 0..case.files {
        // Files differ; that no two are equal does not matter here.
        let number = file.to_ne_bytes();
        let head = number.len().min(case.size);
        bytes[..head].copy_from_slice(&number[..head]);
        let start = Instant::now();
        fs::write(folder.path().join(file.to_string()), &bytes)?;
        write += start.elapsed();
        let start = Instant::now();
        std::hint::black_box(Digest::of(DigestFunction::Sha256, &bytes));
        hash += start.elapsed();
    }
    Ok((write, hash))
}

/// How long an action's outputs take after it has ended.
async fn action(client: &Client, case: &Case, round: usize) -> Result<Duration> {
    let script = format!(
        "mkdir out && cd out && head -c {} /dev/urandom | split -b {} -a 5 -",
        case.files * case.size,
        case.size
    );
    let inputs = Inputs::empty();
    let root = inputs.root();
    inputs.upload(client).await?;
    let spec = Spec {
        arguments: ["/bin/sh", "-c", &script, &round.to_string()]
            .map(String::from)
            .into(),
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        outputs: vec!["out".into()],
        do_not_cache: true,
        ..Spec::default()
    };
    let (action, messages) = hayloft::client::describe(&spec, root);
    client.upload(messages).await?;
    let response = client.execute(action, false, |_| {}).await?;
    let code = response.status.as_ref().map_or(0, |status| status.code);
    ensure!(code == 0, "an action failed: {:?}", response.status);
    let result = response.result.context("an action without a result")?;
    ensure!(result.exit_code == 0, "exit code {}", result.exit_code);
    let metadata = result.execution_metadata.context("no metadata")?;
    let moment = |moment: Option<_>| moment.as_ref().and_then(system_time);
    let start = moment(metadata.output_upload_start_timestamp).context("no start")?;
    let end = moment(metadata.output_upload_completed_timestamp).context("no end")?;
    Ok(end.duration_since(start)?)
}
