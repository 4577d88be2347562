//! What a farm's programs count, read as a monitoring system would: over HTTP, from
//! the sockets in the state directory.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::farm::Farm;
use crate::wait::PATIENCE;

/// One program's numbers at one time, in Prometheus' text format.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    /// Reads those of a role of the farm.
    ///
    /// # Panics
    /// It does not tell them.
    #[must_use]
    pub fn of(farm: &Farm, role: &str) -> Self {
        let name = format!("run/{role}-diagnostics.sock");
        let mut stream = UnixStream::connect(farm.directory().join(name)).expect("the socket");
        stream
            .set_read_timeout(Some(PATIENCE.min(Duration::from_secs(10))))
            .expect("a limit");
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: farm\r\nConnection: close\r\n\r\n")
            .expect("a request");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        Self(text)
    }

    /// The sum of a series over all of its labels that hold these words.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let numbers = self.0.lines().filter_map(|line| {
            let (series, number) = line.rsplit_once(' ')?;
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            let is_it = found == name && labels.iter().all(|label| rest.contains(label));
            is_it.then(|| number.parse::<f64>().expect("a number"))
        });
        numbers.sum()
    }
}

impl Farm {
    /// How many actions workers have executed to an end, as the scheduler counts them
    /// since it was started: not those whose result was known.
    ///
    /// # Panics
    /// The scheduler does not tell.
    #[must_use]
    pub fn executed(&self) -> u64 {
        const NAME: &str =
            "buildbarn_builder_in_memory_build_queue_tasks_executing_duration_seconds_count";
        // Counts are whole and small.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let count = Metrics::of(self, "scheduler").sum(NAME, &[]) as u64;
        count
    }

    /// How often workers began to execute each action, as they log it: of a farm with
    /// `HAYLOFT_LOG=info,worker=debug`.
    #[must_use]
    pub fn executions(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for line in self.log().lines().filter(|line| line.contains("executing")) {
            let Some((_, rest)) = line.split_once("action=") else {
                continue;
            };
            let action = rest.split_whitespace().next().unwrap_or_default();
            *counts.entry(action.to_owned()).or_default() += 1;
        }
        counts
    }

    /// Says what a client built and how many actions that took, and checks that it was
    /// so many.
    ///
    /// # Panics
    /// It was another number: a client that quietly builds by itself, for one.
    #[track_caller]
    pub fn assert_executed(&self, before: u64, count: u64, built: &str) {
        let executed = self.executed() - before;
        tell_executed(executed, built);
        assert_eq!(executed, count, "{built}");
    }
}

/// Says what a client built and how many actions that took, on the terminal also
/// where the harness keeps what passing tests print.
pub fn tell_executed(count: u64, built: &str) {
    let line = format!("CLIENT {built}: {count} actions ran remotely\n");
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}
