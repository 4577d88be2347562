//! Which layers stop which attack: every attack under every set of layers that can
//! be had, and the minimal sets of those that stop it.
//!
//! The runner cannot do without user, mount and pid namespaces: it is started with
//! every possible set of its other protections, once as the plain user who owns all
//! that is attacked, and twice as root, where commands run at a uid of their own: as
//! uid 1000 of the host's userland, and as uid 0 of their input root. What
//! the three do by themselves is tried with other means: `unshare(1)` and
//! bubblewrap. Nothing at all is the plain user on the host.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::process::{Command, Stdio};

use serde_json::json;
use tests::client::attempts;
use tests::user::{As, PLAIN_USER};

use crate::arena::Attempts;
use crate::attack::{Attack, Ground};
use crate::lone_runner::Place;
use crate::{attacks, table};

/// A set of layers, one bit each.
pub type Set = u16;

/// The layers, by the names that configurations use, in the order of the bits.
pub const LAYERS: [&str; 12] = [
    "user_namespace",
    "mount_namespace",
    "pid_namespace",
    "own_uid",
    "ipc_namespace",
    "uts_namespace",
    "network_namespace",
    "no_capabilities",
    "no_new_privileges",
    "seccomp",
    "landlock_files",
    "landlock_scopes",
];
const USER: Set = 1;
const MOUNT: Set = 2;
const PID: Set = 4;
/// What the runner cannot do without.
pub const BASE: Set = USER | MOUNT | PID;
const OWN_UID: Set = 8;
const IPC: Set = 1 << 4;
const UTS: Set = 1 << 5;
const OTHERS: Set = 0b1111_1100_0000;
const NO_NEW_PRIVILEGES: Set = 1 << 8;
const SECCOMP: Set = 1 << 9;
const FILES: Set = 1 << 10;
const SCOPES: Set = 1 << 11;

/// What came of one attack under each set: whether it did anything, and whether it
/// got as far as the kernel or a file that could be written.
pub type Results = BTreeMap<Set, (bool, bool)>;

/// The sets that the runner is started with. A process can restrict itself only after
/// it renounced privileges, and scopes come with the rights to files. The ipc and uts
/// namespaces, which no other layer has to do with, are parted only where they are
/// alone or all others are there.
pub fn possible(who: As) -> impl Iterator<Item = Set> {
    let own_uid = if who == As::Root { OWN_UID } else { 0 };
    (0..1 << LAYERS.len()).filter(move |set: &Set| {
        let has = |layer| set & layer != 0;
        let others = set & OTHERS;
        set & BASE == BASE
            && set & OWN_UID == own_uid
            && (has(NO_NEW_PRIVILEGES) || !(has(SECCOMP) || has(FILES)))
            && (has(FILES) || !has(SCOPES))
            && (has(IPC) == has(UTS) || others == 0 || others == OTHERS)
    })
}

/// The names of the protections that a set lacks, as the runner is to be told.
fn lacking(set: Set) -> Vec<&'static str> {
    let lacks = |bit: usize| set & (1 << bit) == 0 && 1 << bit != OWN_UID;
    (0..LAYERS.len())
        .filter(|bit| lacks(*bit))
        .map(|bit| LAYERS[bit])
        .collect()
}

/// Runs every attack under every set that the runner of a place can have.
fn run_with_runner(place: &Place) -> Vec<Results> {
    let mut results = vec![Results::new(); attacks::ALL.len()];
    let mut ground = Ground::new(place.who);
    for set in possible(place.who) {
        let mut runner = place
            .start(&lacking(set), &json!({}))
            .unwrap_or_else(|log| panic!("no runner without {:?}: {log}", lacking(set)));
        for (attack, results) in attacks::ALL.iter().zip(&mut results) {
            let outcome = runner.attack(&ground.words(attack));
            let intact = place.is_sealed() & ground.restore(attack);
            let expected = if attack.number == 53 { 42 } else { 0 };
            let result = match outcome {
                Ok((code, attempts)) => judge(attack, &attempts, intact && code == expected),
                // It ended its own sandbox, if nothing else.
                Err(status) if status.code() == tonic::Code::Internal => (true, true),
                Err(status) => panic!("attack {}: {status}", attack.number),
            };
            results.insert(set, result);
        }
    }
    results
}

fn judge(attack: &Attack, attempts: &Attempts, intact: bool) -> (bool, bool) {
    assert!(
        !attempts.is_empty(),
        "attack {} tried nothing",
        attack.number
    );
    let did = attack.successes(attempts, false).next().is_some();
    let reached = attack.successes(attempts, true).next().is_some();
    (did || !intact, reached)
}

/// How else a set of namespaces is made around a command: none, the user's own, a
/// root of its own (with the user's, without which a plain user makes none), and a
/// pid namespace with its own /proc.
fn others(folder: &str) -> [(Set, Vec<String>); 4] {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    [
        (0, Vec::new()),
        (USER, words("unshare --user --map-current-user")),
        (
            USER | MOUNT,
            words(&format!(
                "bwrap --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib \
                 --symlink usr/lib64 /lib64 --dev /dev --bind /proc /proc --tmpfs /tmp \
                 --bind {folder} /build/root --chdir /build/root"
            )),
        ),
        (
            USER | PID,
            words("unshare --user --map-current-user --pid --fork --kill-child --mount-proc"),
        ),
    ]
}

/// Runs every attack on the host, as the plain user or as another who owns nothing.
fn run_without_runner(uid: u32, own: Set, results: &mut [Results]) {
    let place = Place::new(As::PlainUser);
    let mut ground = Ground::new(As::PlainUser);
    for (attack, results) in attacks::ALL.iter().zip(results) {
        let action = place.make("action").join("root");
        fs::set_permissions(place.path().join("cache"), open()).expect("its mode");
        for (set, through) in others(action.to_str().expect("UTF-8")) {
            let mut words = through;
            words.push("./probe".into());
            words.extend(ground.words(attack));
            let attempts = run_as(uid, &words, &action);
            let intact = place.is_sealed() & ground.restore(attack);
            results.insert(set | own, judge(attack, &attempts, intact));
        }
        fs::remove_dir_all(place.path().join("build/action")).expect("it can be removed");
    }
}

fn open() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o755)
}

pub fn run_as(uid: u32, words: &[String], folder: &std::path::Path) -> Attempts {
    use std::os::unix::process::CommandExt;
    // To a file: what an attack leaves behind may hold it for ever.
    let log = folder.join("log");
    // However it ends: an attack may have ended it.
    let _ = Command::new(&words[0])
        .args(&words[1..])
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .uid(uid)
        .gid(uid)
        .stdin(Stdio::null())
        .stdout(File::create(&log).expect("a log"))
        .status()
        .expect("the command runs");
    let text = fs::read_to_string(log).expect("the log");
    attempts(&text)
}

/// The minimal sets under which an attack is stopped: every set above is one too, and
/// no smaller one is.
pub fn minimal(results: &Results, succeeded: impl Fn(&(bool, bool)) -> bool) -> Vec<Set> {
    let sufficient: Vec<Set> = results
        .keys()
        .copied()
        .filter(|set| {
            let mut above = results.iter().filter(|(other, _)| *other & set == *set);
            above.all(|(_, result)| !succeeded(result))
        })
        .collect();
    let is_minimal = |set: &Set| {
        !sufficient
            .iter()
            .any(|other| other != set && other & set == *other)
    };
    sufficient.iter().copied().filter(is_minimal).collect()
}

/// Makes every attack in the sandbox of a place that lacks no more than this.
fn nothing_succeeds(place: &Place, without: &[&str]) {
    let mut ground = Ground::new(place.who);
    let mut runner = place.start(without, &json!({})).expect("the runner starts");
    for attack in attacks::ALL {
        let outcome = runner.attack(&ground.words(attack));
        let (code, attempts) = outcome.expect("the sandbox stands");
        assert_eq!(
            code,
            if attack.number == 53 { 42 } else { 0 },
            "attack {}",
            attack.number
        );
        for reach in [false, true] {
            let successes: Vec<_> = attack.successes(&attempts, reach).collect();
            assert!(
                successes.is_empty(),
                "attack {}: {successes:?}",
                attack.number
            );
        }
        assert!(
            place.is_sealed() & ground.restore(attack),
            "attack {}",
            attack.number
        );
    }
}

#[test]
fn no_attack_succeeds_in_the_complete_sandbox() {
    if tests::skip::needs_root("layers::no_attack_succeeds_in_the_complete_sandbox") {
        nothing_succeeds(&Place::new(As::Root), &[]);
    }
}

#[test]
fn no_attack_succeeds_at_uid_0_of_an_input_root() {
    if tests::skip::needs_root("layers::no_attack_succeeds_at_uid_0_of_an_input_root") {
        nothing_succeeds(&Place::of_input_roots(As::Root), &[]);
    }
}

/// As on kernels before 6.12, which have no scopes.
#[test]
fn no_attack_succeeds_without_scopes() {
    if tests::skip::needs_root("layers::no_attack_succeeds_without_scopes") {
        nothing_succeeds(&Place::new(As::Root), &["landlock_scopes"]);
    }
}

#[test]
fn every_attack_under_every_set_of_layers() {
    let test = "layers::every_attack_under_every_set_of_layers";
    if !tests::skip::needs_root(test) || !tests::skip::has(test, &["/usr/bin/bwrap"]) {
        return;
    }
    let mut results = vec![Results::new(); attacks::ALL.len()];
    run_without_runner(PLAIN_USER, 0, &mut results);
    run_without_runner(PLAIN_USER + 1, OWN_UID, &mut results);
    let places = [
        Place::new(As::PlainUser),
        Place::new(As::Root),
        Place::of_input_roots(As::Root),
    ];
    let found = std::thread::scope(|scope| {
        let runs = places
            .each_ref()
            .map(|place| scope.spawn(move || run_with_runner(place)));
        runs.map(|run| run.join().expect("the attacks are made"))
    });
    for found in found {
        for (results, found) in results.iter_mut().zip(found) {
            for (set, (did, reached)) in found {
                let result = results.entry(set).or_default();
                *result = (result.0 | did, result.1 | reached);
            }
        }
    }
    table::check(&results);
}

/// A set as the table has it.
pub fn names(set: Set) -> String {
    let mut text = String::new();
    // Everything rests on the three: they are named only where they are all there is.
    let shown = if set & BASE == BASE && set != BASE {
        set & !BASE
    } else {
        set
    };
    for (bit, name) in LAYERS.iter().enumerate() {
        if shown & (1 << bit) != 0 {
            let plus = if text.is_empty() { "" } else { " + " };
            let _ = write!(text, "{plus}`{name}`");
        }
    }
    text
}
