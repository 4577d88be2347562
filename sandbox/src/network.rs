//! Network namespaces of sandboxes.
//!
//! To make one takes the kernel half a millisecond, to take one down as long again,
//! and few commands use theirs. So the launcher makes them, in its own user
//! namespace, and one in which nothing has happened is used again: no socket is
//! left, nothing was ever sent, and no counter differs from what it was when the
//! namespace was new. One that shows any trace is thrown away, so that no command
//! learns from its network that another was there before. A command cannot configure
//! it either: it has no capability where the namespace belongs.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;

use crate::sys;

/// What tells, in `/proc/net`, that something happened: sockets there are, and what
/// was counted of packets and connections. On a network whose only device is loopback
/// nothing is sent or refused without one of these counting it; labels of IPv6 flows
/// are held for some seconds after their socket is gone.
const TRACES: [&str; 6] = [
    "sockstat",
    "snmp",
    "netstat",
    "snmp6",
    "dev",
    "ip6_flowlabel",
];

/// The first line of this one alone: what follows it counts the whole machine's
/// memory.
const SOCKETS: &str = "sockstat";

/// How much is read at a time: mostly all.
const CHUNK: usize = 8 << 10;

/// A network namespace with a loopback device that is up.
#[derive(Debug)]
pub(crate) struct Network {
    namespace: OwnedFd,
    traces: Vec<(&'static str, File)>,
    /// What the traces were when it was new.
    new: Vec<u8>,
}

impl Network {
    /// Reads all traces, one after another, into `into`.
    fn read(&self, into: &mut Vec<u8>) -> io::Result<()> {
        into.clear();
        for (name, file) in &self.traces {
            let start = into.len();
            loop {
                let end = into.len();
                into.resize(end + CHUNK, 0);
                let read = file.read_at(&mut into[end..], (end - start) as u64)?;
                into.truncate(end + read);
                if read == 0 {
                    break;
                }
            }
            if *name == SOCKETS
                && let Some(line) = into[start..].iter().position(|byte| *byte == b'\n')
            {
                into.truncate(start + line);
            }
        }
        Ok(())
    }
}

/// Those that the launcher has at hand.
#[derive(Debug)]
pub(crate) struct Networks {
    home: OwnedFd,
    proc: OwnedFd,
    /// By sandboxes that are gone.
    left: Vec<Network>,
    /// How many are kept.
    most: usize,
    seen: Vec<u8>,
}

impl Networks {
    /// `proc` is the host's `/proc`; at most `most` are kept for later.
    pub(crate) fn new(proc: OwnedFd, most: usize) -> nix::Result<Self> {
        Ok(Self {
            home: open(&proc, "thread-self/ns/net")?,
            proc,
            left: Vec::new(),
            most,
            seen: Vec::new(),
        })
    }

    /// One in which nothing has happened.
    pub(crate) fn take(&mut self) -> nix::Result<Network> {
        while let Some(network) = self.left.pop() {
            if network.read(&mut self.seen).is_ok() && self.seen == network.new {
                return Ok(network);
            }
        }
        self.make()
    }

    /// Keeps it for when the next is taken, which is when there is time to look
    /// whether anything has happened in it. Every process that was in it is dead.
    pub(crate) fn give_back(&mut self, network: Network) {
        if self.left.len() < self.most {
            self.left.push(network);
        }
    }

    /// This process, and whatever it starts, is in `network` until [`Self::leave`].
    pub(crate) fn enter(&self, network: &Network) -> nix::Result<()> {
        setns(network.namespace.as_fd(), CloneFlags::CLONE_NEWNET)
    }

    /// Back to where the launcher began.
    pub(crate) fn leave(&self) -> nix::Result<()> {
        setns(self.home.as_fd(), CloneFlags::CLONE_NEWNET)
    }

    fn make(&self) -> nix::Result<Network> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let made = self.furnish();
        self.leave()?;
        made
    }

    /// In the new namespace.
    fn furnish(&self) -> nix::Result<Network> {
        sys::bring_up(c"lo")?;
        let mut traces = Vec::new();
        for name in TRACES {
            match open(&self.proc, &format!("thread-self/net/{name}")) {
                Ok(file) => traces.push((name, File::from(file))),
                // A kernel without IPv6.
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        let mut network = Network {
            namespace: open(&self.proc, "thread-self/ns/net")?,
            traces,
            new: Vec::new(),
        };
        let mut new = Vec::new();
        network
            .read(&mut new)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        network.new = new;
        Ok(network)
    }
}

fn open(proc: &OwnedFd, path: &str) -> nix::Result<OwnedFd> {
    openat(
        proc,
        path,
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::paths::open_place;

    /// Whether a network is used again after `use_it` ran in it; namespaces are a
    /// thread's own.
    fn is_used_again<T>(use_it: impl FnOnce() -> T) -> bool {
        let mut networks = Networks::new(open_place(c"/proc").unwrap(), 1).unwrap();
        let network = networks.take().unwrap();
        networks.enter(&network).unwrap();
        let left = use_it();
        networks.leave().unwrap();
        // Held, so that no other gets its number.
        let held = network.namespace.try_clone().unwrap();
        networks.give_back(network);
        let again = networks.take().unwrap();
        drop(left);
        let number = |namespace: &OwnedFd| nix::sys::stat::fstat(namespace).unwrap().st_ino;
        number(&held) == number(&again.namespace)
    }

    /// Whether a test is to go on here: as root, and in a process of its own, where it
    /// is then run. Another test that forks meanwhile would have copies of this one's
    /// sockets, which are there for as long as that process is.
    fn alone(test: &str) -> bool {
        const ALONE: &str = "HAYLOFT_TEST_ALONE";
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP {test}: needs root");
            return false;
        }
        if std::env::var_os(ALONE).is_some() {
            return true;
        }
        let own = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("network::tests::{test}")])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&own.stdout);
        assert!(own.status.success() && said.contains("1 passed"), "{said}");
        false
    }

    #[test]
    fn a_network_in_which_nothing_happened_is_used_again() {
        if alone("a_network_in_which_nothing_happened_is_used_again") {
            assert!(is_used_again(|| ()));
            // A socket that nothing was sent through leaves nothing.
            assert!(is_used_again(|| drop(UdpSocket::bind("127.0.0.1:5"))));
        }
    }

    #[test]
    fn a_network_with_any_trace_is_thrown_away() {
        if !alone("a_network_with_any_trace_is_thrown_away") {
            return;
        }
        assert!(!is_used_again(|| UnixDatagram::unbound().unwrap()), "unix");
        assert!(!is_used_again(|| UdpSocket::bind("[::1]:0").unwrap()), "v6");
        assert!(
            !is_used_again(|| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            }),
            "a connection"
        );
        assert!(
            !is_used_again(|| {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.send_to(b"!", (Ipv4Addr::LOCALHOST, 9)).unwrap();
            }),
            "a datagram"
        );
        assert!(
            !is_used_again(|| drop(TcpStream::connect("127.0.0.1:9").unwrap_err())),
            "a refusal"
        );
        assert!(
            !is_used_again(|| drop(TcpStream::connect("192.0.2.1:9").unwrap_err())),
            "no route"
        );
    }
}
