//! A launcher with its service half, driven by frames over pipes.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use sandbox::{Done, End, Failure, Reply, RunRequest};

static NUMBER: AtomicU32 = AtomicU32::new(0);

const RANGE: u32 = 16;

/// The ordinary user with subordinate ids.
const USER: u32 = 64_322;

/// The group of ordinary users.
const GROUP: u32 = 64_100;

/// Who runs the launcher, and at which host uids commands run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Root, with a range of host uids.
    Range,
    /// An ordinary user that root made one with subordinate ids.
    Subordinate,
    /// An ordinary user: this uid, with a group of another number, taken by root,
    /// or one's own.
    Same(Option<u32>),
}

impl Mode {
    pub fn available(test: &str) -> Vec<Self> {
        match Self::root(test) {
            Some(root) => vec![root, Self::Same(Some(64_321))],
            None => vec![Self::Same(None)],
        }
    }

    /// Installs the programs that map subordinate ids if it may.
    pub fn subordinate(test: &str) -> Option<Self> {
        Self::root(test)?;
        let there = || Path::new("/usr/bin/newuidmap").exists();
        if !there() && std::env::var_os("HAYLOFT_INSTALL").is_some() {
            let status = Command::new("apt-get")
                .args([
                    "-o",
                    "DPkg::Lock::Timeout=300",
                    "install",
                    "--yes",
                    "uidmap",
                ])
                .status();
            assert!(status.unwrap().success());
        }
        if there() {
            Some(Self::Subordinate)
        } else {
            println!("SKIP {test}: newuidmap is not installed");
            None
        }
    }

    pub fn root(test: &str) -> Option<Self> {
        if nix::unistd::geteuid().is_root() {
            Some(Self::Range)
        } else {
            println!("SKIP {test}: root mode needs root");
            None
        }
    }
}

pub struct Farm {
    child: Child,
    directory: PathBuf,
    /// First host uid of commands.
    first: u32,
    mode: Mode,
    next: u64,
    /// What users there are, as a user with subordinate ids sees it.
    users: Option<PathBuf>,
    /// Number of the build directory to use next, and whether it is prepared.
    build: u32,
    prepared: bool,
}

pub fn request(arguments: &[&str]) -> RunRequest {
    RunRequest {
        arguments: arguments.iter().map(|a| a.as_bytes().to_vec()).collect(),
        environment: vec![(b"PATH".to_vec(), b"/usr/bin:/bin:/usr/sbin:/sbin".to_vec())],
        ..RunRequest::default()
    }
}

pub fn shell(script: &str) -> RunRequest {
    request(&["/bin/sh", "-c", script])
}

/// What `/bin/sh` needs, and nothing else.
pub fn copy_userland(root: &Path) {
    let libraries = Command::new("ldd").arg("/bin/sh").output().unwrap().stdout;
    let libraries = String::from_utf8(libraries).unwrap();
    let paths = libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for path in paths.chain(["/bin/sh"]) {
        let to = root.join(&path[1..]);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(path, to).unwrap();
    }
}

/// The example that serves, as it was built.
pub fn program() -> PathBuf {
    built("serve")
}

/// An example, as it was built.
pub fn built(example: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().unwrap().parent().unwrap();
    built.join("examples").join(example)
}

impl Farm {
    pub fn start(mode: Mode, options: &[&str]) -> Self {
        Self::start_through(&[], mode, options)
    }

    /// The same, with a build directory of this user's.
    pub fn start_owned(mode: Mode, options: &[&str], owner: u32) -> Self {
        Self::start_with(&[], mode, options, Some(owner))
    }

    /// The same, started by another program.
    pub fn start_through(through: &[&str], mode: Mode, options: &[&str]) -> Self {
        Self::start_with(through, mode, options, None)
    }

    fn start_with(through: &[&str], mode: Mode, options: &[&str], owner: Option<u32>) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("sandbox-test-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory).unwrap();
        // In root mode commands reach their directories through closed ones.
        let permissions = if mode == Mode::Range { 0o700 } else { 0o755 };
        set_mode(&directory, permissions);
        if let Some(owner) = owner {
            std::os::unix::fs::chown(&directory, Some(owner), Some(owner)).unwrap();
        }
        // The example is copied to where other users can execute it.
        let program = std::env::temp_dir().join(format!(
            "{name}-serve",
            name = directory.file_name().unwrap().to_str().unwrap()
        ));
        copy_program(&self::program(), &program);
        let first = 1_000_000 + (std::process::id() % 10_000) * 10_000 + number * RANGE;
        let users = (mode == Mode::Subordinate).then(|| Users::make(&directory, first));
        let with_users: Option<Vec<String>> = users.as_deref().map(Users::command);
        let mut words = with_users
            .iter()
            .flatten()
            .map(Path::new)
            .chain(through.iter().map(Path::new))
            .chain([program.as_path()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg(&directory).args(options);
        match mode {
            Mode::Range => {
                command.arg(format!("ids={first}:{RANGE}"));
            }
            Mode::Subordinate => {
                command.arg(format!("ids={first}:{RANGE}"));
                std::os::unix::fs::chown(&directory, Some(USER), Some(GROUP)).unwrap();
            }
            Mode::Same(uid) => {
                command.arg("ids=same");
                if let Some(uid) = uid {
                    std::os::unix::fs::chown(&directory, Some(uid), Some(uid)).unwrap();
                    command.uid(uid).gid(GROUP);
                }
            }
        }
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut farm = Self {
            child,
            directory,
            first,
            mode,
            users,
            next: 1,
            build: 0,
            prepared: false,
        };
        assert_eq!(farm.receive(), Reply::Started);
        std::fs::remove_file(&program).unwrap();
        farm
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether commands run at this host uid.
    pub fn owns(&self, uid: u32) -> bool {
        match self.mode {
            Mode::Range | Mode::Subordinate => (self.first..self.first + RANGE).contains(&uid),
            Mode::Same(Some(own)) => uid == own,
            Mode::Same(None) => uid == nix::unistd::geteuid().as_raw(),
        }
    }

    /// Name of the current build directory, below [`Self::directory`].
    pub fn name(&self) -> String {
        self.build.to_string()
    }

    pub fn last_directory(&self) -> PathBuf {
        self.directory.join(self.name())
    }

    fn make(&mut self) {
        self.build += 1;
        let directory = self.last_directory();
        for part in ["", "root", "tmp"] {
            let path = directory.join(part);
            std::fs::create_dir(&path).unwrap();
            set_mode(&path, 0o777);
            self.give(&path);
        }
    }

    fn give(&self, path: &Path) {
        let owner = match self.mode {
            Mode::Same(Some(uid)) => uid,
            Mode::Subordinate => USER,
            Mode::Same(None) | Mode::Range => return,
        };
        std::os::unix::fs::lchown(path, Some(owner), Some(owner)).unwrap();
    }

    /// Fills the input root that all following runs use.
    pub fn prepare(&mut self, fill: impl FnOnce(&Path)) {
        self.make();
        fill(&self.last_directory().join("root"));
        self.prepared = true;
    }

    /// Gives a run its build directory and new output files.
    pub fn place(&mut self, run: &mut RunRequest) {
        if !self.prepared {
            self.make();
        }
        let name = self.name();
        let directory = self.last_directory();
        for output in ["stdout", "stderr"] {
            let _ = std::fs::remove_file(directory.join(output));
        }
        run.input_root_directory = format!("{name}/root").into_bytes();
        run.temporary_directory = format!("{name}/tmp").into_bytes();
        run.stdout_path = format!("{name}/stdout").into_bytes();
        run.stderr_path = format!("{name}/stderr").into_bytes();
    }

    fn send(&mut self, kind: u8, body: &[u8]) -> u64 {
        let id = self.next;
        self.next += 1;
        self.send_as(kind, id, body);
        id
    }

    fn send_as(&mut self, kind: u8, id: u64, body: &[u8]) {
        let mut frame = u32::try_from(body.len() + 9)
            .unwrap()
            .to_le_bytes()
            .to_vec();
        frame.push(kind);
        frame.extend_from_slice(&id.to_le_bytes());
        frame.extend_from_slice(body);
        self.child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(&frame)
            .unwrap();
    }

    pub fn send_run(&mut self, run: &RunRequest) -> u64 {
        self.send(b'r', &run.encode().unwrap())
    }

    pub fn kill(&mut self, id: u64) {
        self.send_as(b'k', id, &[]);
    }

    pub fn receive(&mut self) -> Reply {
        let output = self.child.stdout.as_mut().unwrap();
        let mut length = [0; 4];
        output.read_exact(&mut length).unwrap();
        let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
        output.read_exact(&mut bytes).unwrap();
        Reply::decode(&bytes).unwrap()
    }

    pub fn receive_done(&mut self, open: &mut BTreeSet<u64>) {
        match self.receive() {
            Reply::Done(done) => {
                assert_eq!(done.end, End::Exited(0));
                assert!(open.remove(&done.id), "{done:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    /// What comes of a run that has its places.
    pub fn answer(&mut self, run: &RunRequest) -> Reply {
        self.send_run(run);
        self.receive()
    }

    pub fn done(&mut self, mut run: RunRequest) -> Done {
        self.place(&mut run);
        let id = self.send_run(&run);
        match self.receive() {
            Reply::Done(done) if done.id == id => *done,
            other => panic!("{other:?}"),
        }
    }

    pub fn end(&mut self, run: RunRequest) -> End {
        self.done(run).end
    }

    /// Standard output of a command that succeeds.
    pub fn output(&mut self, run: RunRequest) -> String {
        let end = self.end(run);
        let read = |name| std::fs::read_to_string(self.last_directory().join(name)).unwrap();
        assert_eq!(end, End::Exited(0), "{}{}", read("stdout"), read("stderr"));
        read("stdout")
    }

    pub fn failure(&mut self, mut run: RunRequest) -> Failure {
        self.place(&mut run);
        self.failure_unplaced(run)
    }

    pub fn failure_unplaced(&mut self, run: RunRequest) -> Failure {
        let id = self.send_run(&run);
        match self.receive() {
            Reply::Failed {
                id: failed,
                failure,
            } if failed == id => failure,
            other => panic!("{other:?}"),
        }
    }

    pub fn reclaim(&mut self) -> u64 {
        let name = self.name();
        self.send(b'c', name.as_bytes());
        match self.receive() {
            Reply::Reclaimed { changed, .. } => changed,
            other => panic!("{other:?}"),
        }
    }

    pub fn check(&mut self, path: &str) -> Result<(), Failure> {
        self.send(b'p', path.as_bytes());
        match self.receive() {
            Reply::Checked { .. } => Ok(()),
            Reply::Failed { failure, .. } => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for a file that a command makes.
    pub fn wait_for_file(&self, path: &str) {
        let path = self.last_directory().join(path);
        while !path.exists() {
            std::thread::yield_now();
        }
    }

    /// The launcher and all its descendants.
    pub fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        let mut next = 0;
        while let Some(pid) = all.get(next) {
            all.extend(children(*pid));
            next += 1;
        }
        all
    }

    /// The service half is the launcher's first child.
    fn service(&self) -> u32 {
        children(self.child.id()).into_iter().min().unwrap()
    }

    /// Nothing but the two halves and warm sandboxes without a command.
    pub fn assert_nothing_runs(&self) {
        for pid in self.processes().into_iter().skip(1) {
            assert_eq!(children(pid), [0; 0], "children of {pid}");
        }
    }

    /// Waits until the pool is full again (two, and the service half).
    pub fn settle(&self) {
        loop {
            let all = children(self.child.id());
            let inits = all.iter().filter(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok() && is_waiting(**pid)
            });
            if all.len() == 3 && inits.count() == 3 {
                return;
            }
            std::thread::yield_now();
        }
    }

    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }

    pub fn kill_half(&self, half: &str) {
        let pid = if half == "launcher" {
            self.child.id()
        } else {
            self.service()
        };
        signal(pid, libc::SIGKILL);
    }

    pub fn terminate(&self) {
        signal(self.child.id(), libc::SIGTERM);
    }

    pub fn wait_until_gone(&mut self, all: &[u32]) {
        self.child.wait().unwrap();
        for pid in all {
            while Path::new(&format!("/proc/{pid}/exe"))
                .symlink_metadata()
                .is_ok()
                && !is_zombie(*pid)
            {
                std::thread::yield_now();
            }
        }
    }

    /// Ends the farm as it is meant to: its input ends.
    pub fn stop(mut self) {
        let all = self.processes();
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
        for pid in all {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid}");
        }
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
        if let Some(users) = &self.users {
            let _ = std::fs::remove_dir_all(users);
        }
    }
}

/// A user with subordinate ids, who exists for one process and its children only:
/// files are mounted over those in `/etc` that name users.
struct Users;

impl Users {
    fn make(beside: &Path, first: u32) -> PathBuf {
        let folder = beside.with_extension("users");
        std::fs::create_dir(&folder).unwrap();
        let ids = format!("{USER}:{first}:{RANGE}\n");
        let passwd = format!("root:x:0:0::/:/bin/sh\ntester:x:{USER}:{GROUP}::/:/bin/sh\n");
        for (name, text) in [("passwd", &passwd), ("subuid", &ids), ("subgid", &ids)] {
            std::fs::write(folder.join(name), text).unwrap();
        }
        folder
    }

    /// What starts a program as that user.
    fn command(folder: &Path) -> Vec<String> {
        let script = format!(
            "cd {} && for file in *; do mount --bind $file /etc/$file || exit; done && cd / && \
             exec setpriv --reuid={USER} --regid={GROUP} --clear-groups \"$0\" \"$@\"",
            folder.display()
        );
        ["unshare", "--mount", "sh", "-c", &script]
            .map(ToOwned::to_owned)
            .to_vec()
    }
}

pub fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Copies by another process: a descriptor open for writing in this one could
/// be inherited by a concurrent fork, and executing the file would fail.
fn copy_program(from: &Path, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(status.success());
    set_mode(to, 0o755);
}

fn children(pid: u32) -> Vec<u32> {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .map(|child| child.parse().unwrap())
        .collect()
}

fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn is_zombie(pid: u32) -> bool {
    matches!(state(pid), None | Some('Z'))
}

fn is_waiting(pid: u32) -> bool {
    state(pid) == Some('S')
}

fn signal(pid: u32, signal: libc::c_int) {
    let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
    let signal = nix::sys::signal::Signal::try_from(signal).unwrap();
    let _ = nix::sys::signal::kill(pid, signal);
}
