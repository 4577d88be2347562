//! Attacks 39 to 43: what leaves by a socket, and what is shared by a name.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};

use nix::errno::Errno;

use crate::calls::{attempt_call, call, outcome, pointer};
use crate::report::{attempt, check};

fn socket(family: i32, kind: i32, protocol: i32) -> Result<i32, Errno> {
    // SAFETY: three numbers. The descriptor goes with this process.
    let made = check(unsafe { libc::socket(family, kind, protocol) }.into())?;
    i32::try_from(made).map_err(|_| Errno::EBADF)
}

/// Attack 39: sends something to anybody outside.
pub fn send(places: &[&str]) {
    for place in places {
        let local = if place.starts_with('[') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let sent = UdpSocket::bind(local).and_then(|socket| {
            socket.set_broadcast(true)?;
            socket.connect(place)?;
            socket.send(b"attack")?;
            // The second is refused if nobody was there to take the first.
            socket.send(b"attack")
        });
        attempt(&format!("send to {place}"), outcome(sent));
    }
    for (name, family, kind, protocol) in [
        ("ping", libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
        (
            "ping 6",
            libc::AF_INET6,
            libc::SOCK_DGRAM,
            libc::IPPROTO_ICMPV6,
        ),
        ("raw", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW),
        ("raw 6", libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_RAW),
        ("packet", libc::AF_PACKET, libc::SOCK_RAW, 0x0300),
        (
            "packets of datagrams",
            libc::AF_PACKET,
            libc::SOCK_DGRAM,
            0x0300,
        ),
    ] {
        attempt(name, socket(family, kind, protocol));
    }
}

/// Attack 40: families of sockets that reach the hypervisor, the kernel's
/// announcements, its ciphers, or devices.
pub fn families() {
    const UEVENT: i32 = 15;
    const NETFILTER: i32 = 12;
    const AUDIT: i32 = 9;
    let (datagram, sequence) = (libc::SOCK_DGRAM, libc::SOCK_SEQPACKET);
    for (name, family, kind, protocol) in [
        ("vsock", libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        ("vsock datagram", libc::AF_VSOCK, datagram, 0),
        ("uevent", libc::AF_NETLINK, libc::SOCK_RAW, UEVENT),
        ("netfilter", libc::AF_NETLINK, libc::SOCK_RAW, NETFILTER),
        ("audit", libc::AF_NETLINK, libc::SOCK_RAW, AUDIT),
        ("alg", libc::AF_ALG, sequence, 0),
        ("bluetooth", libc::AF_BLUETOOTH, libc::SOCK_RAW, 1),
        ("can", libc::AF_CAN, libc::SOCK_RAW, 1),
        ("tipc", libc::AF_TIPC, datagram, 0),
        ("rds", libc::AF_RDS, sequence, 0),
        ("key", libc::AF_KEY, libc::SOCK_RAW, 2),
        ("xdp", libc::AF_XDP, libc::SOCK_RAW, 0),
        ("nfc", libc::AF_NFC, libc::SOCK_RAW, 0),
        ("qipcrtr", 42, datagram, 0),
        ("smc", 43, libc::SOCK_STREAM, 0),
    ] {
        let arguments = [family, kind, protocol, 0, 0, 0].map(libc::c_long::from);
        attempt_call(name, libc::SYS_socket, arguments);
    }
    // The number's upper half is nothing to the kernel.
    let dirty = libc::c_long::from(libc::AF_VSOCK) | 1 << 40;
    let made = call(
        libc::SYS_socket,
        [dirty, libc::SOCK_STREAM.into(), 0, 0, 0, 0],
    );
    attempt("vsock, 64 bits", made.map(drop));
    attempt("host by vsock", connect_host());
}

fn connect_host() -> Result<(), Errno> {
    let socket = socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)?;
    // sockaddr_vm of vsock(7): family, port 1, the host's number 2.
    let address = [libc::AF_VSOCK as u32, 1, 2, 0];
    let arguments = [socket.into(), pointer(&address), 16, 0, 0, 0];
    call(libc::SYS_connect, arguments).map(drop)
}

/// Attack 41: abstract unix sockets, by stream and by datagram.
pub fn abstract_sockets(names: &[&str]) {
    for name in names {
        let Ok(address) = SocketAddr::from_abstract_name(name) else {
            continue;
        };
        attempt(
            &format!("stream {name}"),
            outcome(UnixStream::connect_addr(&address)),
        );
        let sent = UnixDatagram::unbound();
        let sent = sent.and_then(|socket| socket.send_to_addr(b"attack", &address));
        attempt(&format!("datagram {name}"), outcome(sent));
    }
}

/// Attack 42: unix sockets that have a path.
pub fn path_sockets(paths: &[&str]) {
    let known = [
        "/run/docker.sock",
        "/var/run/docker.sock",
        "/run/dbus/system_bus_socket",
    ];
    for path in paths.iter().chain(&known) {
        attempt(
            &format!("stream {path}"),
            outcome(UnixStream::connect(path)),
        );
        let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to(b"attack", path));
        attempt(&format!("datagram {path}"), outcome(sent));
    }
}

/// Attack 43: memory, semaphores and queues of others, by key and by name.
pub fn shared(key: &str, name: &str) {
    let key = key.parse().unwrap_or(0);
    attempt("shmget", call(libc::SYS_shmget, [key, 0, 0, 0, 0, 0]));
    attempt("semget", call(libc::SYS_semget, [key, 0, 0, 0, 0, 0]));
    attempt("msgget", call(libc::SYS_msgget, [key, 0, 0, 0, 0, 0]));
    let queue = std::ffi::CString::new(name).unwrap_or_default();
    attempt(
        "mq_open",
        call(libc::SYS_mq_open, [pointer(queue.as_ptr()), 0, 0, 0, 0, 0]),
    );
    attempt("/dev/shm", outcome(File::open(format!("/dev/shm/{name}"))));
    for table in ["shm", "sem", "msg"] {
        let lines = fs::read_to_string(format!("/proc/sysvipc/{table}"));
        let others = lines.map_or(0, |text| text.lines().skip(1).count());
        attempt(
            &format!("list {table}"),
            if others > 0 {
                Ok(())
            } else {
                Err(Errno::ENODATA)
            },
        );
    }
}
