//! What one attack is, so that it can be made on a farm, under any set of layers,
//! and under another sandbox alike.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::LazyLock;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tests::processes::Process;
use tests::user::As;
use tests::wait::wait_for_none;

use crate::arena::{Arena, Attempts, Bystander, assert_refused, control};
use crate::inputs;

/// One attack, as the probe is told to make it.
pub struct Attack {
    /// Its number in `docs/threat-model.md`.
    pub number: u8,
    /// What it is, for the table there.
    pub what: &'static str,
    /// The probe's words; `{name}` stands for a target on the [`Ground`], which may
    /// be several words.
    pub words: &'static [&'static str],
    /// What an action may do: prefixes of attempts' names.
    pub rights: &'static [&'static str],
    /// How the complete sandbox refuses the rest.
    pub refusals: &'static [&'static str],
}

/// Attempts of this prefix tell whether something could be reached at all, whoever
/// then refuses it.
pub const REACH: &str = "reach ";

impl Attack {
    /// Whether an attempt is one that an action must not succeed with.
    #[must_use]
    pub fn is_wrong(&self, name: &str) -> bool {
        !self.rights.iter().any(|right| name.starts_with(right))
    }

    /// The attempts that succeeded though an action must not: those that count how
    /// far it got (`reach`), or those that count what it did.
    pub fn successes<'a>(
        &'a self,
        attempts: &'a Attempts,
        reach: bool,
    ) -> impl Iterator<Item = &'a str> {
        attempts
            .iter()
            .filter(move |(name, result)| {
                *result == "OK" && name.starts_with(REACH) == reach && self.is_wrong(name)
            })
            .map(|(name, _)| name.as_str())
    }

    /// Makes the attack in an action of a farm, and checks that all is refused.
    pub fn refused(&self, who: As) -> Attempts {
        let ground = Ground::new(who);
        let arena = Arena::new(who);
        let words = ground.words(self);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let action = arena.action(&words, &inputs::tree());
        let attempts = arena.farm.client().run(&action);
        // The reaper's own attack shows in the exit code, too.
        let code = if self.number == 53 { 42 } else { 0 };
        let attempts = attempts.exited(code).attempts();
        ground.assert_untouched();
        assert_refused(&attempts, self.refusals, self.rights);
        arena.leave();
        attempts
    }

    /// Makes the attack on the host, as the plain user to whom the targets belong,
    /// and checks that these attempts succeed there.
    pub fn succeeds_without_sandbox(&self, successes: &[&str]) -> Attempts {
        let ground = Ground::new(As::PlainUser);
        let words = ground.words(self);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let attempts = control(As::PlainUser, &words, ground.folder.path());
        for name in successes {
            let mut alike = attempts.iter().filter(|(tried, _)| tried.starts_with(name));
            let succeeded = alike.any(|(_, result)| result == "OK");
            assert!(succeeded, "{name} does not succeed: {attempts:#?}");
        }
        attempts
    }
}

/// Makes the two tests of an attack that is refused on both farms alike.
macro_rules! refused_on_both_farms {
    () => {
        #[test]
        fn on_a_farm_of_root() {
            if tests::skip::needs_root(concat!(module_path!(), "::on_a_farm_of_root")) {
                ATTACK.refused(tests::user::As::Root);
            }
        }

        #[test]
        fn on_a_farm_of_a_plain_user() {
            ATTACK.refused(tests::user::As::PlainUser);
        }
    };
}
pub(crate) use refused_on_both_farms;

/// Has whatever is started from here on, farms and runners too, begin with one more
/// descriptor than the usual three, as from a careless service manager: a folder of
/// the host's.
fn leave_descriptor_open() {
    static FOLDER: LazyLock<File> = LazyLock::new(|| {
        let folder = File::open("/").expect("the host's root");
        fcntl(&folder, FcntlArg::F_SETFD(FdFlag::empty())).expect("its flags");
        folder
    });
    LazyLock::force(&FOLDER);
}

/// What attacks are aimed at on the host: things of whoever runs the farm.
pub struct Ground {
    /// Files, and where controls work.
    pub folder: TempDir,
    who: As,
    victim: Bystander,
    sharer: Bystander,
    key: String,
    name: String,
    listeners: Listeners,
    targets: BTreeMap<&'static str, Vec<String>>,
}

struct Listeners {
    tcp: TcpListener,
    udp: UdpSocket,
    path: UnixListener,
    name: UnixListener,
}

impl Ground {
    /// Lays it out for a user.
    pub fn new(who: As) -> Self {
        leave_descriptor_open();
        let folder = who.folder();
        let secret = tests::secret();
        let name = format!("hayloft-{}", tests::secret());
        let file = folder.path().join(&secret);
        std::fs::write(&file, &secret).expect("a file");
        who.own(&file);
        let victim = Bystander::start(who, &["victim"], folder.path(), &[("SECRET", &secret)]);
        // A key (ftok(3) is no better) of 31 bits.
        let key = i64::from_str_radix(&name[8..15], 16)
            .expect("a number")
            .to_string();
        let sharer = Bystander::start(who, &["share", &key, &name], folder.path(), &[]);
        assert_eq!(sharer.word, "shared");
        let listeners = Listeners::new(folder.path(), &name);
        let socket = folder.path().join("socket");
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let known = |name: &str, value: String| format!("{name}={}", value.trim());
        let one = |text: String| vec![text];
        let path = |path: &std::path::Path| vec![path.to_str().expect("UTF-8").to_owned()];
        let tcp = listeners.tcp.local_addr().expect("an address");
        let udp = listeners.udp.local_addr().expect("an address");
        let targets = BTreeMap::from([
            ("inputs", inputs::FILES.map(str::to_owned).to_vec()),
            ("victim", one(victim.word.clone())),
            ("pid", one(victim.pid())),
            ("secret", one(secret.clone())),
            ("file", path(&file)),
            ("marker", one(tests::secret())),
            ("folder", path(folder.path())),
            (
                "places",
                vec![
                    format!("tcp:{tcp}"),
                    format!("unix:{}", socket.display()),
                    format!("abstract:{name}"),
                ],
            ),
            ("udp", one(udp.to_string())),
            ("name", one(name.clone())),
            ("key", one(key.clone())),
            ("socket", path(&socket)),
            (
                "host",
                vec![
                    known("hostname", read("/proc/sys/kernel/hostname")),
                    known("/etc/machine-id", read("/etc/machine-id")),
                    known(
                        "/proc/sys/kernel/random/boot_id",
                        read("/proc/sys/kernel/random/boot_id"),
                    ),
                    known("/proc/cmdline", read("/proc/cmdline")),
                    known("/etc/hostname", read("/etc/hostname")),
                    known("/etc/passwd", read("/etc/passwd")),
                ],
            ),
        ]);
        Self {
            folder,
            who,
            victim,
            sharer,
            key,
            name,
            listeners,
            targets,
        }
    }

    /// An attack's words, aimed at what is here.
    pub fn words(&self, attack: &Attack) -> Vec<String> {
        let mut words = Vec::new();
        for word in attack.words {
            match word
                .strip_prefix('{')
                .and_then(|name| name.strip_suffix('}'))
            {
                Some(name) => words.extend(self.targets[name].iter().cloned()),
                None => words.push((*word).to_owned()),
            }
        }
        words
    }

    /// Puts all in order for the next attack, and tells whether it was: nothing is
    /// left running. The victim is replaced if it has become one.
    pub fn restore(&mut self, attack: &Attack) -> bool {
        self.listeners.forget();
        if !self.victim.is_alive() {
            let environment = [("SECRET", self.targets["secret"][0].as_str())];
            self.victim = Bystander::start(self.who, &["victim"], self.folder.path(), &environment);
            self.targets
                .insert("victim", vec![self.victim.word.clone()]);
            self.targets.insert("pid", vec![self.victim.pid()]);
        }
        if !attack.words.contains(&"{marker}") {
            return true;
        }
        let marker = &self.targets["marker"][0];
        let left = Process::mentioning(marker);
        wait_for_none("daemons", || {
            let left = Process::mentioning(marker);
            for process in &left {
                // It may have ended since it was found.
                let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
            }
            left
        });
        left.is_empty()
    }

    /// Checks that the victim lives and that nobody came to call.
    pub fn assert_untouched(&self) {
        assert!(self.victim.is_alive(), "the victim is dead");
        self.listeners.assert_nobody_came();
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.sharer.kill();
        let words = ["unshare", &self.key, &self.name];
        let removed = self
            .who
            .command("probe", self.folder.path())
            .args(words)
            .status();
        if !std::thread::panicking() {
            assert!(removed.expect("the probe").success());
        }
    }
}

impl Listeners {
    fn new(folder: &std::path::Path, name: &str) -> Self {
        let address = SocketAddr::from_abstract_name(name).expect("a name");
        let path = folder.join("socket");
        let socket = UnixListener::bind(&path).expect("a socket");
        let all = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&path, all).expect("its mode");
        let listeners = Self {
            tcp: TcpListener::bind("127.0.0.1:0").expect("a listener"),
            udp: UdpSocket::bind("127.0.0.1:0").expect("a socket"),
            path: socket,
            name: UnixListener::bind_addr(&address).expect("an abstract socket"),
        };
        listeners.tcp.set_nonblocking(true).expect("no waiting");
        listeners.udp.set_nonblocking(true).expect("no waiting");
        listeners.path.set_nonblocking(true).expect("no waiting");
        listeners.name.set_nonblocking(true).expect("no waiting");
        listeners
    }

    /// Takes whoever came, so that there is room for the next.
    fn forget(&self) {
        while self.tcp.accept().is_ok() {}
        while self.udp.recv(&mut [0; 16]).is_ok() {}
        while self.path.accept().is_ok() {}
        while self.name.accept().is_ok() {}
    }

    fn assert_nobody_came(&self) {
        let came = [
            self.tcp.accept().err(),
            self.udp.recv(&mut [0; 16]).err(),
            self.path.accept().err(),
            self.name.accept().err(),
        ];
        for error in came {
            let kind = error.map(|error| error.kind());
            assert_eq!(kind, Some(std::io::ErrorKind::WouldBlock), "somebody came");
        }
    }
}
