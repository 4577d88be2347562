//! What Prometheus' libraries tell of every process, from `/proc` (`proc(5)`).

use std::fmt;
use std::fs;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;

use crate::metrics::{Collector, ConstGauge, write};

/// The process's own metrics. What cannot be read (the runner's service half has
/// no `/proc`) is left out.
#[derive(Debug)]
pub(crate) struct Process {
    /// In seconds since 1970.
    started: f64,
}

impl Process {
    pub(crate) fn starting_now() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            started: now.map_or(0.0, |since| since.as_secs_f64()),
        }
    }
}

impl Collector for Process {
    #[expect(
        clippy::cast_precision_loss,
        reason = "metrics are floating point numbers"
    )]
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name, help, value| {
            let metric = ConstGauge::<f64>::new(value);
            let kind = prometheus_client::encoding::EncodeMetric::metric_type(&metric);
            let encoder = encoder.encode_descriptor(name, help, None, kind)?;
            prometheus_client::encoding::EncodeMetric::encode(&metric, encoder)
        };
        let start = "Start of the process, in seconds since 1970";
        gauge("process_start_time_seconds", start, self.started)?;
        if let Some(bytes) = resident() {
            let help = "Memory of the process that is resident, in bytes";
            gauge("process_resident_memory_bytes", help, bytes as f64)?;
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            gauge("process_open_fds", "Open files", open.count() as f64)?;
        }
        if let Ok((most, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let help = "Files that the process may open";
            gauge("process_max_fds", help, most as f64)?;
        }
        let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
            return Ok(());
        };
        let seconds = [usage.user_time(), usage.system_time()]
            .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6);
        let used = ConstCounter::<f64>::new(seconds.iter().sum());
        let help = "Time on processors, in seconds";
        write(encoder, "process_cpu_seconds", help, &used)
    }
}

/// In bytes.
fn resident() -> Option<u64> {
    let pages = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_process_tells_of_itself() {
        let metrics = Metrics::default();
        metrics.collect(Process::starting_now());
        let text = metrics.to_text();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line[name.len()..].trim().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_start_time_seconds") > 1.6e9);
    }
}
