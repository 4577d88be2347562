//! The life of a farm of `hayloft up`: how it starts, who its processes are, what
//! becomes of it when one of them is killed, and that nothing of it is left.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::wire::rev2;
use tests::action::Action;
use tests::client::Client;
use tests::farm::{Farm, ROLES, Setup};
use tests::processes::Process;
use tests::skip::{is_root, needs_root};
use tests::tree::Tree;
use tests::user::{As, PLAIN_USER};
use tests::wait::{wait_for, wait_for_none};
use tonic::Code;

/// An action that runs until it is killed, all its processes with the marker.
fn endless(marker: &str) -> Action {
    Action::shell(&format!("while :; do sleep 3600; done; : {marker}")).do_not_cache()
}

/// Waits until a shell with the marker runs.
fn wait_until_it_runs(marker: &str) {
    wait_for("the action to run", || {
        let mentioning = Process::mentioning(marker);
        (!mentioning.is_empty()).then_some(())
    });
}

/// Kills a process and waits until the kernel has taken it down.
fn kill_hard(process: &Process) {
    kill(Pid::from_raw(process.pid), Signal::SIGKILL).expect("it is there");
    wait_for("its end", || (!process.is_there()).then_some(()));
}

/// Runs an action as `hayloft run` does: what breaks on the way is asked for anew.
fn run(client: &Client, action: &Action) -> rev2::ActionResult {
    let (digest, blobs) = action.blobs();
    client.upload(blobs);
    let executed = client.block_on(client.inner().execute(digest, false, |_| ()));
    let response = executed.expect("an answer in the end");
    let status = response.status.unwrap_or_default();
    assert_eq!(Code::from(status.code), Code::Ok, "{status:?}");
    response.result.expect("a result")
}

#[test]
fn a_farm_that_is_interrupted_ends_its_actions_and_leaves_nothing() {
    for who in As::possible() {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let farm = Farm::start(*who);
            let marker = tests::secret();
            let tree = Tree::new().file("input", marker.clone());
            let running = farm.client().start(&endless(&marker).tree(&tree));
            wait_until_it_runs(&marker);
            farm.stop_by(signal);
            assert_eq!(Process::mentioning(&marker), []);
            let outcome = running.wait();
            assert_ne!(outcome.status.code(), Code::Ok, "{outcome:#?}");
        }
    }
}

#[test]
fn no_process_outlives_a_farm_that_is_killed() {
    for who in As::possible() {
        let folder = who.folder();
        let directory = folder.path().join("state");
        let mut farm = Setup::new(*who).directory(&directory).start();
        let kept = Action::shell("cat /proc/sys/kernel/random/uuid");
        let first = farm.client().run(&kept).success();
        let marker = tests::secret();
        let tree = Tree::new().file("input", marker.clone());
        let _running = farm.client().start(&endless(&marker).tree(&tree));
        wait_until_it_runs(&marker);
        let processes = farm.processes();
        farm.signal(Signal::SIGKILL);
        farm.wait();
        wait_for_none("processes of the farm", || {
            let left = processes.iter().filter(|process| process.is_there());
            left.cloned().collect()
        });
        drop(farm);

        // The next one on its directory clears up after it, and knows what it knew.
        let farm = Setup::new(*who).directory(&directory).start();
        farm.wait_until_idle();
        let again = farm.client().run(&kept).success();
        assert_eq!((again.cached, again.stdout), (true, first.stdout));
        let _ = farm
            .client()
            .run(&Action::shell("cat input").tree(&tree))
            .success();
        farm.wait_until_idle();
        farm.stop();
    }
}

#[test]
fn a_farm_knows_after_a_restart_what_it_knew() {
    for who in As::possible() {
        let folder = who.folder();
        let directory = folder.path().join("state");
        let tree = Tree::new().file("input", "x".repeat(100_000));
        let action = Action::shell("cat /proc/sys/kernel/random/uuid > id")
            .tree(&tree)
            .output("id");
        let farm = Setup::new(*who).directory(&directory).start();
        let first = farm.client().run(&action).success();
        farm.stop();
        let farm = Setup::new(*who).directory(&directory).start();
        let again = farm.client().run(&action).success();
        assert!(again.cached);
        assert_eq!(again.output("id"), first.output("id"));
        let id = again.output("id").digest.as_ref().expect("a digest");
        assert_eq!(farm.client().fetch(id).len(), 37);
        // The inputs are where they were, and as good as they were.
        let other = Action::shell("cat input").tree(&tree);
        assert_eq!(farm.client().run(&other).success().stdout.len(), 100_000);
        farm.wait_until_idle();
        farm.stop();
    }
}

#[test]
fn a_role_that_is_killed_is_started_again() {
    for who in As::possible() {
        let farm = Farm::start(*who);
        for role in ROLES {
            let before = farm.role(role);
            let below = Process::descendants(before.pid);
            kill_hard(&before);
            wait_for_none("processes of the dead role", || {
                let left = below.iter().filter(|process| process.is_there());
                left.cloned().collect()
            });
            let after = farm.role(role);
            assert_ne!(before, after);
            for number in 0..4 {
                let action = Action::shell(&format!("echo {role} {number}")).do_not_cache();
                assert_eq!(run(farm.client(), &action).exit_code, 0);
            }
        }
        farm.wait_until_idle();
        farm.stop();
    }
}

#[test]
fn an_action_survives_the_death_of_any_role_but_the_runner() {
    for who in As::possible() {
        let farm = Farm::start(*who);
        for role in ROLES.into_iter().filter(|role| *role != "runner") {
            let marker = tests::secret();
            let script = format!("sleep 1; echo done > out; : {marker}");
            let action = Action::shell(&script).output("out").do_not_cache();
            let client = farm.client().clone();
            let running = std::thread::spawn(move || run(&client, &action));
            wait_until_it_runs(&marker);
            kill_hard(&farm.role(role));
            let result = running.join().expect("the action ends well");
            assert_eq!(result.exit_code, 0, "{role}");
            let digest = result.output_files[0].digest.as_ref().expect("a digest");
            assert_eq!(farm.client().fetch(digest), "done\n");
            wait_for_none("processes of the action", || Process::mentioning(&marker));
        }
        farm.wait_until_idle();
        farm.stop();
    }
}

/// Somebody may have ended the runner, or the action itself, which is why there
/// is an end to it.
#[test]
fn an_action_whose_runner_dies_is_tried_again_and_in_the_end_given_up() {
    for who in As::possible() {
        let farm = Farm::start(*who);
        let marker = tests::secret();
        let running = farm.client().start(&endless(&marker));
        for _ in 0..3 {
            wait_until_it_runs(&marker);
            kill_hard(&farm.role("runner"));
            wait_for_none("processes of the action", || Process::mentioning(&marker));
        }
        let _ = running
            .wait()
            .refused(Code::Internal, &["3 attempts", "runner"]);
        let _ = farm.client().run(&Action::shell("exit 0")).success();
        farm.wait_until_idle();
        farm.stop();
    }
}

#[test]
fn a_directory_has_one_farm_at_a_time() {
    let who = As::possible()[0];
    let farm = Farm::start(who);
    let second = Setup::new(who).directory(farm.directory()).try_start();
    let log = second.err().expect("the second is refused");
    let directory = farm.directory().to_str().expect("UTF-8");
    assert!(
        log.contains(directory) && log.contains("another farm"),
        "{log}"
    );
    // The first is none the worse.
    let _ = farm.client().run(&Action::shell("exit 0")).success();
    farm.stop();
}

#[test]
fn what_a_farm_cannot_have_is_named() {
    let who = As::possible()[0];
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let log = Setup::new(who).listen(&address).try_start().err();
    let log = log.expect("the address is taken");
    assert!(log.contains(&address), "{log}");

    let log = Setup::new(who)
        .directory("/proc/hayloft".as_ref())
        .try_start()
        .err();
    let log = log.expect("the directory cannot be made");
    assert!(log.contains("/proc/hayloft"), "{log}");
}

#[test]
fn a_farm_goes_on_when_nobody_reads_what_it_says() {
    let who = As::possible()[0];
    let folder = who.folder();
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("its address").to_string();
    drop(port);
    let mut farm = who
        .command("hayloft-under-test", folder.path())
        .args(["up", "--listen", &address, "--dir"])
        .arg(folder.path().join("state"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("hayloft runs");
    drop(farm.stdout.take());
    wait_for("the farm to listen", || TcpStream::connect(&address).ok());
    let client = Client::connect(&format!("grpc://{address}"));
    for number in 0..2 {
        let action = Action::shell(&format!("echo {number}"));
        assert_eq!(run(&client, &action).exit_code, 0);
    }
    let pid = i32::try_from(farm.id()).expect("a process id");
    kill(Pid::from_raw(pid), Signal::SIGINT).expect("it is there");
    assert!(farm.wait().expect("its end").success());
}

#[test]
fn state_may_lie_where_nobody_else_can_go() {
    if !needs_root("state_may_lie_where_nobody_else_can_go") {
        return;
    }
    // As /root is: closed to the users of the farm's roles.
    let closed = tempfile::tempdir().expect("a folder of mode 0700");
    let directory = closed.path().join("deep/state");
    let farm = Setup::new(As::Root).directory(&directory).start();
    let action = Action::shell("cat input > output")
        .tree(&Tree::new().file("input", "seen"))
        .output("output");
    let outcome = farm.client().run(&action).success();
    let output = outcome.output("output").digest.as_ref().expect("a digest");
    assert_eq!(farm.client().fetch(output), "seen");
    farm.stop();
}

/// What the kernel says of a process: users, capabilities, no_new_privs.
fn status(pid: i32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.expect(field).trim_start_matches(':').trim().to_owned()
}

#[test]
fn each_role_of_roots_farm_has_a_user_of_its_own_and_no_capability() {
    if !needs_root("each_role_of_roots_farm_has_a_user_of_its_own_and_no_capability") {
        return;
    }
    let farm = Farm::start(As::Root);
    let launcher = farm.role("runner");
    let service = Process::descendants(launcher.pid)
        .into_iter()
        .find(|process| process.arguments == launcher.arguments)
        .expect("the half that serves");
    let mut users = BTreeSet::new();
    let others = ["scheduler", "storage", "worker"].map(|role| farm.role(role));
    for process in others.iter().chain([&service]) {
        let uids = status(process.pid, "Uid");
        let uids: BTreeSet<u32> = uids
            .split_whitespace()
            .map(|uid| uid.parse().expect("a uid"))
            .collect();
        assert_eq!(
            uids.len(),
            1,
            "{process:?} has more than one user: {uids:?}"
        );
        users.extend(uids);
        for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
            let set = status(process.pid, set);
            assert_eq!(u64::from_str_radix(&set, 16), Ok(0), "{process:?}");
        }
        let own = status(process.pid, "Gid");
        let groups = status(process.pid, "Groups");
        let mut groups = groups.split_whitespace();
        assert!(groups.all(|group| own.contains(group)), "{process:?}");
    }
    assert!(!users.contains(&0));
    assert_eq!(users.len(), 4, "some have the same user: {users:?}");
    // No action has the user of any of them.
    let marker = tests::secret();
    let running = farm.client().start(&endless(&marker));
    wait_until_it_runs(&marker);
    for process in Process::mentioning(&marker) {
        let user = status(process.pid, "Uid");
        let user = user.split_whitespace().next().expect("a uid");
        let user: u32 = user.parse().expect("a uid");
        assert!(user != 0 && !users.contains(&user));
    }
    let _ = running.cancel();
    farm.wait_until_idle();
    farm.stop();
}

#[test]
fn a_plain_users_farm_is_that_users_alone() {
    let farm = Farm::start(As::PlainUser);
    let user = if is_root() {
        PLAIN_USER
    } else {
        nix::unistd::geteuid().as_raw()
    };
    let _ = farm.client().run(&Action::shell("exit 0")).success();
    let uids = format!("{user}\t{user}\t{user}\t{user}");
    for process in farm.processes() {
        assert_eq!(status(process.pid, "Uid"), uids, "{process:?}");
    }
    // And nobody else's to read.
    let metadata = fs::metadata(farm.directory()).expect("the state directory");
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
    assert_eq!(mode & 0o777, 0o700);
    farm.stop();
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_a_request_harms_nobody() {
    let farm = Farm::start(As::possible()[0]);
    let address = farm.endpoint().trim_start_matches("grpc://");
    for bytes in [
        &b""[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0; 64],
    ] {
        let mut stream = TcpStream::connect(address).expect("a connection");
        std::io::Write::write_all(&mut stream, bytes).expect("it is taken");
        let patience = Some(Duration::from_millis(100));
        stream.set_read_timeout(patience).expect("a timeout");
        let _ = stream.read(&mut [0; 64]);
    }
    let _ = farm.client().run(&Action::shell("exit 0")).success();
    farm.stop();
}
