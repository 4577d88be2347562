//! Actions under way while something happens to the farm.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use tests::action::Action;
use tests::client::Client;
use tests::wait::PATIENCE;
use tonic::Code;

use crate::farm::Farm;

/// How many actions are under way at a time: more than the farm executes, so that some
/// are queued.
const AT_A_TIME: u32 = 12;

/// What a client does when it loses the farm while it waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The action is lost.
    Never,
    /// It asks again, as Bazel does when it is told UNAVAILABLE.
    Unavailable,
}

/// Clients that have actions executed, one after the other.
pub struct Load {
    ended: Arc<AtomicBool>,
    done: Arc<AtomicU32>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins, and waits until some actions have ended.
    pub fn start(farm: &Farm, platform: &[(String, String)], retry: When) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU32::new(0));
        let clients = (0..AT_A_TIME)
            .map(|client| {
                let (ended, done) = (Arc::clone(&ended), Arc::clone(&done));
                let (connection, platform) = (farm.client().clone(), platform.to_vec());
                std::thread::spawn(move || {
                    let mut number = 0;
                    while !ended.load(Ordering::Relaxed) {
                        let text = format!("{client} {number}");
                        run(&connection, &platform, &text, retry);
                        done.fetch_add(1, Ordering::Relaxed);
                        number += 1;
                    }
                })
            })
            .collect();
        let load = Self {
            ended,
            done,
            clients,
        };
        load.goes_on();
        load
    }

    /// Waits until each client has got further.
    pub fn goes_on(&self) {
        let before = self.done.load(Ordering::Relaxed);
        let end = Instant::now() + 4 * PATIENCE;
        while self.done.load(Ordering::Relaxed) < before + 2 * AT_A_TIME {
            assert!(
                self.clients.iter().all(|client| !client.is_finished()),
                "an action is lost"
            );
            assert!(Instant::now() < end, "the farm does nothing more");
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits for all actions that are under way.
    pub fn end(self) {
        self.ended.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("no action is lost");
        }
    }
}

/// Runs an action that takes a while and says something of its own.
fn run(client: &Client, platform: &[(String, String)], text: &str, retry: When) {
    let platform: Vec<_> = platform
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    let action = Action::shell(&format!("sleep 0.3; echo done {text}"))
        .platform(&platform)
        .salt(text)
        .do_not_cache();
    let (digest, blobs) = action.blobs();
    let end = Instant::now() + 4 * PATIENCE;
    loop {
        let uploaded = client.block_on(client.inner().upload(blobs.clone()));
        let outcome = match uploaded {
            Ok(()) => client.run_digest(digest),
            Err(_) if retry == When::Unavailable && Instant::now() < end => {
                sleep(Duration::from_millis(100));
                continue;
            }
            Err(error) => panic!("{text}: {error}"),
        };
        match outcome.status.code() {
            Code::Unavailable if retry == When::Unavailable && Instant::now() < end => {
                sleep(Duration::from_millis(100));
            }
            _ => {
                let outcome = outcome.success();
                assert_eq!(outcome.stdout, format!("done {text}\n"));
                return;
            }
        }
    }
}
