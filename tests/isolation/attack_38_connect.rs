//! Attack 38: an action connects to services of the host, of the farm, of another
//! action and of the outside. On its own loopback it may do as it likes, and
//! actions that run at the same time may use the same port.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread;

use nix::ifaddrs::getifaddrs;
use tempfile::TempDir;
use tests::user::As;

use crate::arena::{Arena, assert_refused, assert_succeeded, control, on_both_farms};
use crate::attack::Attack;

/// As it is made under every set of layers.
pub const ATTACK: Attack = Attack {
    number: 38,
    what: "services on the host's loopback, its unix and abstract sockets",
    words: &["attack-38", "{places}"],
    rights: &[],
    refusals: &[],
};

on_both_farms!(attack);

fn attack(who: As) {
    let arena = Arena::new(who);
    let host = Host::listen();
    let mut places = host.places();
    places.push(format!("tcp:{}", &arena.farm.endpoint()["grpc://".len()..]));
    let sockets = arena.farm.directory().join("run");
    let before = places.len();
    for entry in std::fs::read_dir(sockets)
        .expect("the farm's sockets")
        .flatten()
    {
        if entry.file_name().to_string_lossy().ends_with(".sock") {
            places.push(format!("unix:{}", entry.path().display()));
        }
    }
    assert!(places.len() > before, "the farm has no sockets");
    // A cloud's metadata service, a neighbour, the outside.
    for outside in ["169.254.169.254:80", "[fe80::1]:80", "192.0.2.1:443"] {
        places.push(format!("tcp:{outside}"));
    }
    // The sibling has a port of the host's for itself, and so does the attacker.
    let sibling = arena.sibling(&[&host.port().to_string()]);
    let bind = format!("bind:{}", host.port());
    places.push(bind.clone());

    let words: Vec<_> = places.iter().map(String::as_str).collect();
    let mut attempts = arena.attack(&[&["attack-38"], &words[..]].concat());
    assert_eq!(attempts.remove(&bind).as_deref(), Some("OK"));
    assert_eq!(attempts.len(), places.len() - 1);
    let refusals = [
        "ECONNREFUSED",
        "ENETUNREACH",
        "EHOSTUNREACH",
        "EADDRNOTAVAIL",
        "EAFNOSUPPORT",
        "EINVAL",
        "EPERM",
        "ENOENT",
    ];
    assert_refused(&attempts, &refusals, &[]);
    host.assert_nobody_came();
    sibling.leave();
    arena.leave();
}

#[test]
fn control_an_unprotected_process_connects() {
    let who = As::PlainUser;
    let folder = who.folder();
    let host = Host::listen();
    let echo = host.answer_one_datagram();
    let places = host.places();
    let words: Vec<_> = places.iter().map(String::as_str).collect();
    let words = [&["attack-38", "bind:0"], &words[..]].concat();
    assert_succeeded(&control(who, &words, folder.path()), &[]);
    echo.join().expect("the datagram was answered");
}

/// Services of the host, on all its addresses and on local sockets.
struct Host {
    tcp: TcpListener,
    udp: UdpSocket,
    path: UnixListener,
    name: UnixListener,
    abstract_name: String,
    folder: TempDir,
}

impl Host {
    fn listen() -> Self {
        // Both protocols' addresses, where there is IPv6.
        let tcp = TcpListener::bind((IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0))
            .or_else(|_| TcpListener::bind("0.0.0.0:0"))
            .expect("a listener");
        let folder = As::PlainUser.folder();
        let path = folder.path().join("socket");
        let socket = UnixListener::bind(&path).expect("a socket");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("its mode");
        let abstract_name = format!("hayloft-{}", tests::secret());
        let name = SocketAddr::from_abstract_name(&abstract_name).expect("a name");
        Self {
            tcp,
            udp: UdpSocket::bind("127.0.0.1:0").expect("a socket"),
            path: socket,
            name: UnixListener::bind_addr(&name).expect("an abstract socket"),
            abstract_name,
            folder,
        }
    }

    fn port(&self) -> u16 {
        self.tcp.local_addr().expect("an address").port()
    }

    fn places(&self) -> Vec<String> {
        let mut places = vec![
            format!("udp:{}", self.udp.local_addr().expect("an address")),
            format!("unix:{}", self.folder.path().join("socket").display()),
            format!("abstract:{}", self.abstract_name),
        ];
        let has_ipv6 = self.tcp.local_addr().expect("an address").is_ipv6();
        for interface in getifaddrs().expect("the host's addresses") {
            let Some(address) = interface.address else {
                continue;
            };
            if let Some(address) = address.as_sockaddr_in() {
                places.push(format!("tcp:{}:{}", address.ip(), self.port()));
            } else if let Some(address) = address.as_sockaddr_in6().filter(|_| has_ipv6) {
                let scope = match address.scope_id() {
                    0 => String::new(),
                    scope => format!("%{scope}"),
                };
                places.push(format!("tcp:[{}{scope}]:{}", address.ip(), self.port()));
            }
        }
        assert!(
            places
                .iter()
                .any(|place| place.starts_with("tcp:127.0.0.1:"))
        );
        places
    }

    fn answer_one_datagram(&self) -> thread::JoinHandle<()> {
        let socket = self.udp.try_clone().expect("a socket");
        thread::spawn(move || {
            let (_, sender) = socket.recv_from(&mut [0; 16]).expect("a datagram");
            socket.send_to(b"answer", sender).expect("an answer");
        })
    }

    fn assert_nobody_came(&self) {
        self.tcp.set_nonblocking(true).expect("no waiting");
        self.udp.set_nonblocking(true).expect("no waiting");
        self.path.set_nonblocking(true).expect("no waiting");
        self.name.set_nonblocking(true).expect("no waiting");
        let came = [
            self.tcp.accept().err(),
            self.udp.recv(&mut [0; 16]).err(),
            self.path.accept().err(),
            self.name.accept().err(),
        ];
        for error in came {
            let kind = error.as_ref().map(std::io::Error::kind);
            assert_eq!(kind, Some(ErrorKind::WouldBlock), "somebody came");
        }
    }
}
