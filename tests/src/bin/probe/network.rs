//! Attack 38: services of the host, of the farm and of siblings.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use crate::report::{attempt, errno};

/// How long a peer that does not answer is waited for. One that can be reached
/// is on this machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// Attack 38: connects to `tcp:HOST:PORT`, `udp:HOST:PORT`, `unix:PATH` and
/// `abstract:NAME`; `bind:PORT` uses a port of its own on both loopbacks.
pub fn connect(places: &[&str]) {
    for place in places {
        let (kind, address) = place.split_once(':').unwrap_or((place, ""));
        let result = match kind {
            "tcp" => tcp(address),
            "udp" => udp(address),
            "unix" => UnixStream::connect(address).map(drop),
            "abstract" => UnixAddr::from_abstract_name(address)
                .and_then(|name| UnixStream::connect_addr(&name))
                .map(drop),
            "bind" => talk_to_itself(&format!("127.0.0.1:{address}")),
            _ => Err(std::io::Error::from_raw_os_error(libc::EINVAL)),
        };
        attempt(place, result.map_err(|error| name(&error)));
    }
}

fn name(error: &std::io::Error) -> Errno {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Errno::ETIMEDOUT,
        _ => errno(error),
    }
}

fn parse(address: &str) -> std::io::Result<SocketAddr> {
    address
        .parse()
        .map_err(|_| std::io::Error::from_raw_os_error(libc::EINVAL))
}

fn tcp(address: &str) -> std::io::Result<()> {
    TcpStream::connect_timeout(&parse(address)?, PATIENCE).map(drop)
}

/// Sends a datagram and waits for its answer: sending alone proves nothing.
fn udp(address: &str) -> std::io::Result<()> {
    let address = parse(address)?;
    let local = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(local)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(address)?;
    socket.send(b"attack")?;
    socket.recv(&mut [0; 16]).map(drop)
}

fn talk_to_itself(address: &str) -> std::io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    let peer = thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.write_all(b"hello")
    });
    let mut said = String::new();
    TcpStream::connect(address)?.read_to_string(&mut said)?;
    peer.join().expect("the peer does not panic")?;
    if said == "hello" {
        Ok(())
    } else {
        Err(std::io::Error::from_raw_os_error(libc::EBADMSG))
    }
}
