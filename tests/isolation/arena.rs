//! Where an attack takes place: a farm, the probe, and what it is aimed at.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytes::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::action::Action;
use tests::client::{Outcome, Running, attempts};
use tests::farm::{Farm, Setup};
use tests::processes::Process;
use tests::tree::Tree;
use tests::user::As;
use tests::wait::wait_for;

/// Makes the two tests of an attack from a function of who runs the farm.
macro_rules! on_both_farms {
    ($attack:ident) => {
        #[test]
        fn on_a_farm_of_root() {
            if tests::skip::needs_root(concat!(module_path!(), "::on_a_farm_of_root")) {
                $attack(tests::user::As::Root);
            }
        }

        #[test]
        fn on_a_farm_of_a_plain_user() {
            $attack(tests::user::As::PlainUser);
        }
    };
}
pub(crate) use on_both_farms;

/// What a probe tried, and what came of it.
pub type Attempts = BTreeMap<String, String>;

/// A farm under attack.
pub struct Arena {
    pub farm: Farm,
    pub who: As,
    probe: Bytes,
}

impl Arena {
    /// A fresh farm.
    pub fn new(who: As) -> Self {
        Self::of(who, Setup::new(who))
    }

    /// A farm that is set up in a certain way.
    pub fn of(who: As, setup: Setup) -> Self {
        let probe = fs::read(tests::program("probe")).expect("the probe");
        Self {
            farm: setup.start(),
            who,
            probe: probe.into(),
        }
    }

    /// The probe as an input.
    pub fn probe(&self) -> Bytes {
        self.probe.clone()
    }

    /// The action that runs the probe with these words, with the probe and `tree`
    /// as its inputs.
    pub fn action(&self, words: &[&str], tree: &Tree) -> Action {
        let words = ["./probe"].iter().chain(words);
        Action::new(words.copied())
            .tree(&tree.clone().executable("probe", self.probe()))
            .do_not_cache()
    }

    /// Runs the probe in an action. It ends well, whatever was refused.
    pub fn attack(&self, words: &[&str]) -> Attempts {
        self.run(&self.action(words, &Tree::new())).attempts()
    }

    /// Runs an action that ends well.
    pub fn run(&self, action: &Action) -> Outcome {
        self.farm.client().run(action).success()
    }

    /// Runs the probe on the host, as the user who runs the farm.
    pub fn control(&self, words: &[&str], folder: &Path) -> Attempts {
        control(self.who, words, folder)
    }

    /// An action that runs while others attack it.
    pub fn sibling(&self, words: &[&str]) -> Sibling {
        let secret = tests::secret();
        let words: Vec<_> = ["hold", &secret].iter().chain(words).copied().collect();
        let running = self.farm.client().start(&self.action(&words, &Tree::new()));
        let process = wait_for("the sibling to be ready", || {
            Process::mentioning(&secret)
                .into_iter()
                .find(|process| process.arguments[1] == "holding")
        });
        Sibling {
            secret,
            process,
            running,
        }
    }

    /// Every process of the farm, those of actions among them, as the host
    /// numbers them.
    pub fn pids(&self) -> Vec<String> {
        let processes = self.farm.processes();
        let pids = processes.iter().map(|process| process.pid);
        pids.chain([self.farm.pid()])
            .map(|pid| pid.to_string())
            .collect()
    }

    /// Checks that nothing is left of any action, and ends the farm.
    pub fn leave(self) {
        self.farm.wait_until_idle();
        self.farm.stop();
    }
}

/// An action that waits until it is killed.
pub struct Sibling {
    /// The name and the content of files that it has written.
    pub secret: String,
    /// Its process, as the host sees it.
    pub process: Process,
    running: Running,
}

impl Sibling {
    /// Has its client cancel it, whichever process it is by now.
    pub fn cancel(self) {
        let _ = self.running.cancel().refused(tonic::Code::Cancelled, &[]);
    }

    /// Checks that it is unharmed, and ends it, as only the host can.
    pub fn leave(self) {
        let now = Process::read(self.process.pid).expect("the sibling is there");
        assert_eq!((now.started, now.state), (self.process.started, 'S'));
        kill(Pid::from_raw(now.pid), Signal::SIGKILL).expect("the sibling is there");
        let _ = self.running.wait().exited(128 + Signal::SIGKILL as i32);
    }
}

/// Runs the probe on the host, as a user.
pub fn control(who: As, words: &[&str], folder: &Path) -> Attempts {
    let output = who
        .command("probe", folder)
        .args(words)
        .current_dir(folder)
        .output()
        .expect("the probe runs");
    assert!(output.status.success(), "{output:?}");
    attempts(&String::from_utf8_lossy(&output.stdout))
}

/// A process of the host for a control to attack: it runs the probe as a user.
pub struct Bystander {
    process: std::process::Child,
    /// The first line that it printed.
    pub word: String,
}

impl Bystander {
    /// Starts it. It must print a line.
    pub fn start(who: As, words: &[&str], folder: &Path, environment: &[(&str, &str)]) -> Self {
        use std::io::{BufRead, BufReader};
        use std::os::unix::process::CommandExt;
        let mut process = who
            .command("probe", folder)
            .args(words)
            .envs(environment.iter().copied())
            .current_dir(folder)
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("the probe runs");
        let mut word = String::new();
        BufReader::new(process.stdout.take().expect("its output"))
            .read_line(&mut word)
            .expect("its word");
        Self {
            process,
            word: word.trim().into(),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> String {
        self.process.id().to_string()
    }

    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        let pid = i32::try_from(self.process.id()).expect("a process id");
        tests::processes::Process::read(pid).is_some_and(|process| process.state != 'Z')
    }

    /// Ends it, whatever it does.
    pub fn kill(&mut self) {
        // One that has ended is none.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Asks it to end, if it is not dead, and tells by which signal it died.
    pub fn end(mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        let pid = Pid::from_raw(i32::try_from(self.process.id()).expect("a process id"));
        let _ = kill(pid, Signal::SIGTERM);
        self.process.wait().expect("its end").signal()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        // A test that fails leaves none behind.
        self.kill();
    }
}

/// Checks that each attempt was refused with one of these errnos, but for those
/// whose name begins with one of `allowed`.
pub fn assert_refused(attempts: &Attempts, errnos: &[&str], allowed: &[&str]) {
    assert!(!attempts.is_empty(), "nothing was tried");
    for (name, result) in attempts {
        let is_allowed = allowed.iter().any(|prefix| name.starts_with(prefix));
        assert!(
            is_allowed || errnos.contains(&result.as_str()),
            "{name}: {result}, but must be one of {errnos:?}; all: {attempts:#?}"
        );
    }
}

/// Checks that each attempt succeeded, but for those whose name begins with the
/// first of one of the pairs: they may end as the second says.
pub fn assert_succeeded(attempts: &Attempts, exceptions: &[(&str, &[&str])]) {
    assert!(!attempts.is_empty(), "nothing was tried");
    for (name, result) in attempts {
        let is_excepted = exceptions.iter().any(|(prefix, results)| {
            name.starts_with(prefix) && results.contains(&result.as_str())
        });
        assert!(
            result == "OK" || is_excepted,
            "the probe cannot do {name} where it may: {result}; all: {attempts:#?}"
        );
    }
}

/// Every file of this name below a folder.
pub fn files_named(folder: &Path, name: &str) -> Vec<PathBuf> {
    walkdir::WalkDir::new(folder)
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_name() == name)
        .map(walkdir::DirEntry::into_path)
        .collect()
}
