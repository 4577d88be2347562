//! Commands without any namespace, as the host's own kernel would let them be nowhere else:
//! Landlock, the filter and a reaper are all there is.

use std::time::Duration;

use sandbox::End;

use crate::farm::{Farm, Mode, set_mode, shell};

const OFF: [&str; 6] = [
    "off=user_namespace",
    "off=mount_namespace",
    "off=pid_namespace",
    "off=ipc_namespace",
    "off=uts_namespace",
    "off=network_namespace",
];

/// A farm of an ordinary user.
fn start() -> Farm {
    let mode = Mode::available("without_namespaces").pop().unwrap();
    Farm::start(mode, &OFF)
}

/// Processes that have this among their arguments.
fn running(words: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let arguments = all.filter_map(|one| std::fs::read(one.path().join("cmdline")).ok());
    arguments
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .filter(|line| line.starts_with("sleep ") && line.contains(words))
        .collect()
}

/// A number of seconds that no other test sleeps.
fn span(of: u32) -> String {
    format!("{}{of:04}", 100_000 + std::process::id() % 100_000)
}

#[test]
fn commands_run_where_their_input_root_is() {
    let mut farm = start();
    farm.prepare(|root| {
        std::fs::write(root.join("input"), "bytes").unwrap();
        std::fs::create_dir(root.join("folder")).unwrap();
        set_mode(&root.join("folder"), 0o777);
    });
    let mut run = shell("pwd; cat ../input; echo made > out; echo t > $TMPDIR/t; cat $TMPDIR/t");
    run.working_directory = b"folder".to_vec();
    run.environment.push((b"TMPDIR".to_vec(), b"/tmp".to_vec()));
    let root = farm.last_directory().join("root/folder");
    let root = root.canonicalize().unwrap();
    assert_eq!(farm.output(run), format!("{}\nbytest\n", root.display()));
    assert_eq!(std::fs::read_to_string(root.join("out")).unwrap(), "made\n");
    assert_eq!(farm.end(shell("exit 42")), End::Exited(42));
    assert_eq!(farm.end(shell("kill -SEGV $$")), End::Signaled(11));
    farm.stop();
}

#[test]
fn what_is_not_theirs_is_closed_to_commands() {
    let mut farm = start();
    // Another action's, which is the same user's.
    farm.prepare(|root| std::fs::write(root.join("secret"), "bytes").unwrap());
    let other = farm.last_directory().join("root");
    set_mode(&other.join("secret"), 0o666);
    farm.prepare(|_| ());
    let other = other.display();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for refused in [
        format!("cat {other}/secret"),
        format!("echo x >> {other}/secret"),
        format!("touch {other}/new"),
        "touch /tmp/new".to_owned(),
        "touch /dev/shm/new".to_owned(),
        format!("ls {}", farm.directory().display()),
        "cat /home/* /root/*".to_owned(),
        // Its init: the first of its ancestors that it did not make.
        "kill -0 $PPID".to_owned(),
        "kill $PPID".to_owned(),
        "cat /proc/$PPID/environ /proc/$PPID/maps".to_owned(),
        "unshare --user true".to_owned(),
        format!("bash -c ': < /dev/tcp/127.0.0.1/{port}'"),
    ] {
        assert_ne!(farm.end(shell(&refused)), End::Exited(0), "{refused}");
    }
    let status = farm.output(shell("cat /proc/self/status"));
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000"] {
        assert!(status.contains(line), "{status}");
    }
    farm.stop();
}

#[test]
fn nobody_is_somebody_else() {
    let mut farm = start();
    let mut run = shell("id");
    run.ids = Some(sandbox::IdPair { uid: 0, gid: 0 });
    assert_eq!(farm.failure(run).kind, sandbox::FailureKind::Sandbox);
    let uid = farm.output(shell("id -u"));
    assert!(farm.owns(uid.trim().parse().unwrap()), "{uid}");
    farm.stop();
}

const DAEMON: &str = "setsid sh -c 'trap \"\" TERM HUP; (sleep SPAN & wait) & wait' & \
                      until grep -qs SPAN /proc/[0-9]*/cmdline; do :; done; touch started; ";

#[test]
fn nothing_outlives_a_command() {
    let mut farm = start();
    let span = span(1);
    let script = DAEMON.replace("SPAN", &span);
    assert_eq!(farm.end(shell(&script)), End::Exited(0));
    assert_eq!(running(&span), [""; 0]);
    farm.assert_nothing_runs();
    farm.stop();
}

#[test]
fn nothing_outlives_a_timeout() {
    let mut farm = start();
    let span = span(2);
    let mut run = shell(&(DAEMON.replace("SPAN", &span) + "while :; do sleep 1; done"));
    run.timeout = Some(Duration::from_secs(3));
    assert_eq!(farm.end(run), End::TimedOut);
    assert_eq!(running(&span), [""; 0]);
    farm.assert_nothing_runs();
    farm.stop();
}

#[test]
fn nothing_outlives_a_kill() {
    let mut farm = start();
    let span = span(3);
    let mut run = shell(&(DAEMON.replace("SPAN", &span) + "while :; do sleep 1; done"));
    farm.place(&mut run);
    let id = farm.send_run(&run);
    farm.wait_for_file("root/started");
    farm.kill(id);
    match farm.receive() {
        sandbox::Reply::Done(done) => assert_eq!((done.id, done.end), (id, End::Killed)),
        other => panic!("{other:?}"),
    }
    assert_eq!(running(&span), [""; 0]);
    farm.assert_nothing_runs();
    farm.stop();
}

#[test]
fn nothing_outlives_the_runner() {
    for half in ["launcher", "service"] {
        let mut farm = start();
        let span = span(4);
        let mut run = shell(&(DAEMON.replace("SPAN", &span) + "while :; do sleep 1; done"));
        farm.place(&mut run);
        farm.send_run(&run);
        farm.wait_for_file("root/started");
        let all = farm.processes();
        farm.kill_half(half);
        farm.wait_until_gone(&all);
        while !running(&span).is_empty() {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_tree_that_grows_while_it_is_killed_ends() {
    let mut farm = start();
    let span = span(5);
    let script = format!("grow() {{ grow & grow & sleep {span}; }}; grow & sleep 0.5");
    let mut run = shell(&script);
    run.limits[sandbox::Limit::Processes] = Some(200);
    let _ = farm.end(run);
    assert_eq!(running(&span), [""; 0]);
    farm.assert_nothing_runs();
    farm.stop();
}
