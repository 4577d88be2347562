//! Logs: to standard error, one line each.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging. `HAYLOFT_LOG` filters as `tracing-subscriber`'s `EnvFilter`
/// does (`debug`, `worker=debug,info`); without it the program's `default` holds.
/// `HAYLOFT_LOG_FORMAT=json`
/// makes each line a JSON object.
pub(crate) fn start(default: &str) {
    let filter = EnvFilter::try_from_env("HAYLOFT_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let json = std::env::var("HAYLOFT_LOG_FORMAT").is_ok_and(|format| format == "json");
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start, as several programs in one test process make, changes nothing.
    let _ = if json {
        subscriber.json().try_init()
    } else {
        subscriber.try_init()
    };
}
