//! Sandboxes from outside: each test starts a launcher and a service half
//! (`examples/serve.rs`) in processes of their own and runs commands there, as
//! root with a range of host uids and as an ordinary user.

// The lint tells tests by their attribute, which helpers do not have.
#![allow(clippy::unwrap_used)]

mod compromised;
mod control_groups;
mod farm;
mod hostile;
mod limits;
mod other_user;
mod overlay;
mod subordinate;
mod view;
mod without_namespaces;

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use farm::{Farm, Mode, request, shell};
use sandbox::{End, FailureKind, Reply};

/// Runs `body` in each mode that this user can have.
fn in_each_mode(name: &str, body: impl Fn(&mut Farm)) {
    for mode in Mode::available(name) {
        let mut farm = Farm::start(mode, &[]);
        body(&mut farm);
        farm.stop();
    }
}

/// The same for what the farm does not survive.
fn until_dead(name: &str, body: impl Fn(&mut Farm)) {
    for mode in Mode::available(name) {
        body(&mut Farm::start(mode, &[]));
    }
}

#[test]
fn codes_and_signals_come_back() {
    in_each_mode("codes_and_signals_come_back", |farm| {
        assert_eq!(farm.end(shell("exit 0")), End::Exited(0));
        assert_eq!(farm.end(shell("exit 42")), End::Exited(42));
        assert_eq!(farm.end(shell("kill -SEGV $$")), End::Signaled(11));
        let done = farm.done(shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"));
        assert!(!done.usage.user_time.is_zero(), "{done:?}");
        assert!(done.usage.maximum_resident_set_size > 100_000, "{done:?}");
        assert!(done.duration >= done.usage.user_time / 2, "{done:?}");
    });
}

#[test]
fn the_command_is_locked_down() {
    in_each_mode("the_command_is_locked_down", |farm| {
        let status = farm.output(shell("cat /proc/self/status"));
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_once(':').unwrap().1.trim().to_owned()
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!(field("NoNewPrivs"), "1");
        assert_eq!(field("Seccomp"), "2");
        assert_eq!(field("Uid"), "1000\t1000\t1000\t1000");
        assert_eq!(field("SigBlk"), "0000000000000000");
        assert_eq!(field("SigIgn"), "0000000000000000");
        assert!(field("Pid").parse::<u32>().unwrap() < 10);
        assert_eq!(
            farm.output(shell("umask; hostname; id -un")),
            "0022\nlocalhost\nbuild\n"
        );
        // 3 is ls's own.
        assert_eq!(farm.output(shell("ls /proc/self/fd")), "0\n1\n2\n3\n");
        assert_eq!(
            farm.output(shell("readlink /proc/self/fd/0")),
            "/dev/null\n"
        );
        assert_eq!(farm.output(shell("cat /proc/1/cmdline | tr -d '\\0'")), "");
        assert_eq!(farm.output(shell("ulimit -c")), "0\n");
    });
}

#[test]
fn forbidden_calls_fail() {
    in_each_mode("forbidden_calls_fail", |farm| {
        for command in [
            "unshare -U true",
            "unshare -r true",
            "mount -t tmpfs none /tmp",
            "umount /tmp",
            "chmod u+s /usr/bin/id",
            "kill -9 1 && sleep 1 && false",
            "cat /proc/1/environ",
            "cat /proc/1/mem",
            "ls /proc/1/root/",
            "mknod /tmp/n b 8 0",
            "echo x > /proc/sys/kernel/hostname",
            "echo x > /proc/sys/net/ipv4/ip_forward",
        ] {
            let run = format!("{command} 2>/dev/null");
            assert_ne!(farm.end(shell(&run)), End::Exited(0), "{command}");
        }
    });
}

#[test]
fn a_command_cannot_forge_or_delay_its_end() {
    in_each_mode("a_command_cannot_forge_or_delay_its_end", |farm| {
        // Neither killing nor stopping the reaper has an effect, nor has what stays behind.
        let end = farm.end(shell(
            "kill -STOP 1; kill -KILL 1; (trap '' TERM HUP; setsid sleep 1000 &) ; exit 7",
        ));
        assert_eq!(end, End::Exited(7));
        farm.assert_nothing_runs();
    });
}

#[test]
fn writes_go_only_where_they_belong() {
    in_each_mode("writes_go_only_where_they_belong", |farm| {
        for place in [".", "/tmp", "/var/tmp", "/dev/shm", "/build/root"] {
            let command = format!("echo x > {place}/f && mv {place}/f {place}/g && cat {place}/g");
            assert_eq!(farm.output(shell(&command)), "x\n", "{place}");
        }
        for place in [
            "/", "/usr", "/etc", "/dev", "/build", "/var", "/proc", "/usr/bin",
        ] {
            let command = format!("echo x 2>/dev/null > {place}/f");
            assert_ne!(farm.end(shell(&command)), End::Exited(0), "{place}");
        }
        let output = farm.output(shell(
            "echo a > /dev/null; echo b >> /dev/stdout; echo c >&2",
        ));
        assert_eq!(output, "b\n");
        for place in [
            "/run",
            "/home",
            "/root",
            "/sys",
            "/etc/shadow",
            "/var/lib",
            "/var/log",
        ] {
            let command = format!("test -e {place}");
            assert_eq!(farm.end(shell(&command)), End::Exited(1), "{place}");
        }
    });
}

#[test]
fn what_the_command_wrote_is_there_afterwards() {
    in_each_mode("what_the_command_wrote_is_there_afterwards", |farm| {
        assert_eq!(
            farm.end(shell("mkdir d; echo o > d/f; echo t > /tmp/t; chmod 755 d")),
            End::Exited(0)
        );
        let last = farm.last_directory();
        assert_eq!(std::fs::read(last.join("root/d/f")).unwrap(), b"o\n");
        assert_eq!(std::fs::read(last.join("tmp/t")).unwrap(), b"t\n");
        let owner = last.join("root/d/f").metadata().unwrap().uid();
        assert!(farm.owns(owner), "{owner}");
        let mode = last.join("stdout").metadata().unwrap().mode();
        assert_eq!(mode & 0o7777, 0o666);
    });
}

#[test]
fn environment_and_arguments_are_exact() {
    in_each_mode("environment_and_arguments_are_exact", |farm| {
        let mut env = request(&["/usr/bin/env"]);
        env.environment = vec![
            (b"B".to_vec(), b"two words".to_vec()),
            (b"A".to_vec(), b"".to_vec()),
        ];
        assert_eq!(farm.output(env), "B=two words\nA=\n");
        let mut arguments = request(&["/usr/bin/printf", "%s|", "a b", "", "*"]);
        arguments.environment.clear();
        assert_eq!(farm.output(arguments), "a b||*|");
    });
}

#[test]
fn programs_are_found_and_errors_told() {
    in_each_mode("programs_are_found_and_errors_told", |farm| {
        farm.prepare(|root| {
            for (name, text, mode) in [
                ("ok", "#!/bin/sh\necho \"$0\"\n", 0o755),
                ("plain", "#!/bin/sh\n", 0o644),
                ("garbage", "\x01\x02", 0o755),
                ("orphan", "#!/nonexistent/interpreter\n", 0o755),
            ] {
                let path = root.join("bin").join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, text).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            }
        });
        assert_eq!(farm.output(request(&["bin/ok"])), "bin/ok\n");
        let mut below = request(&["./ok"]);
        below.working_directory = b"bin".to_vec();
        assert_eq!(farm.output(below), "./ok\n");
        let mut by_path = request(&["ok"]);
        by_path.environment = vec![(b"PATH".to_vec(), b"/nowhere:bin".to_vec())];
        assert_eq!(farm.output(by_path.clone()), "bin/ok\n");

        let mut check = |run, errno| {
            let failure = farm.failure(run);
            assert_eq!(
                (failure.kind, failure.errno),
                (FailureKind::Command, errno),
                "{failure}"
            );
        };
        check(request(&["none"]), libc::ENOENT);
        check(request(&["bin/none"]), libc::ENOENT);
        check(request(&["bin/plain"]), libc::EACCES);
        check(request(&["bin/garbage"]), libc::ENOEXEC);
        check(request(&["bin/orphan"]), libc::ENOENT);
        check(request(&["./bin"]), libc::EISDIR);
        by_path.environment.clear();
        check(by_path, libc::ENOENT);
        let mut elsewhere = request(&["/bin/true"]);
        elsewhere.working_directory = b"missing".to_vec();
        check(elsewhere, libc::ENOENT);
    });
}

#[test]
fn paths_that_leave_the_build_directory_are_refused() {
    in_each_mode("paths_that_leave_the_build_directory_are_refused", |farm| {
        farm.prepare(|root| {
            std::os::unix::fs::symlink("/etc", root.join("../link")).unwrap();
        });
        let directory = farm.name();
        for bad in ["/etc", "..", "../x", "a//b", "missing", "./x"] {
            let mut run = request(&["/bin/true"]);
            farm.place(&mut run);
            run.input_root_directory = bad.as_bytes().to_vec();
            let failure = farm.failure_unplaced(run);
            assert_eq!(failure.kind, FailureKind::Request, "{bad} {failure}");
        }
        for bad in [
            "/tmp/stdout",
            "../stdout",
            "link/stdout",
            "",
            "missing/stdout",
        ] {
            let mut run = request(&["/bin/true"]);
            farm.place(&mut run);
            let bad = bad.replace("link", &format!("{directory}/link"));
            run.stdout_path = bad.as_bytes().to_vec();
            let failure = farm.failure_unplaced(run);
            assert_eq!(failure.kind, FailureKind::Request, "{bad} {failure}");
        }
        // The same file twice.
        let mut run = request(&["/bin/true"]);
        farm.place(&mut run);
        run.stderr_path = run.stdout_path.clone();
        assert_eq!(farm.failure_unplaced(run).errno, libc::EEXIST);
    });
}

#[test]
fn timeout_and_kill_take_daemons_along() {
    in_each_mode("timeout_and_kill_take_daemons_along", |farm| {
        let command = "echo before; (trap '' TERM; setsid sleep 1000 </dev/null >/dev/null 2>&1 &); sleep 1000";
        let mut run = shell(command);
        run.timeout = Some(Duration::from_millis(300));
        let done = farm.done(run);
        assert_eq!(done.end, End::TimedOut);
        assert!(done.duration >= Duration::from_millis(300), "{done:?}");
        assert_eq!(
            std::fs::read(farm.last_directory().join("stdout")).unwrap(),
            b"before\n"
        );
        farm.assert_nothing_runs();

        let mut run = shell("echo ready > started; sleep 1000");
        farm.place(&mut run);
        let id = farm.send_run(&run);
        farm.wait_for_file("root/started");
        farm.kill(id);
        match farm.receive() {
            Reply::Done(done) => assert_eq!((done.id, done.end), (id, End::Killed)),
            other => panic!("{other:?}"),
        }
        farm.assert_nothing_runs();
    });
}

#[test]
fn the_network_is_a_loopback_that_is_up() {
    in_each_mode("the_network_is_a_loopback_that_is_up", |farm| {
        let devices = farm.output(shell("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"));
        assert!(devices.lines().any(|device| device == "lo"), "{devices}");
        // Some kernels add unconfigured tunnel devices to each namespace.
        let routes = farm.output(shell("tail -n +2 /proc/net/route"));
        assert_eq!(routes, "");
        let addresses = farm.output(shell("cat /proc/net/fib_trie"));
        assert!(addresses.contains("127.0.0.1"), "{addresses}");
    });
}

#[test]
fn inputs_of_another_owner_stay_as_they_are() {
    let Some(mode) = Mode::root("inputs_of_another_owner_stay_as_they_are") else {
        return;
    };
    let mut farm = Farm::start(mode, &[]);
    let cached = farm.directory().join("cached");
    std::fs::write(&cached, "original").unwrap();
    std::fs::set_permissions(&cached, std::fs::Permissions::from_mode(0o555)).unwrap();
    std::os::unix::fs::chown(&cached, Some(65532), Some(65532)).unwrap();
    let before = cached.metadata().unwrap();
    farm.prepare(|root| std::fs::hard_link(&cached, root.join("input")).unwrap());
    let attempts = farm.end(shell(
        "chmod 777 input; echo x > input; touch input; setfattr -n user.x -v y input; \
         ln input other; chown 1000 input; truncate -s 0 input; rm input; echo x > input",
    ));
    assert_eq!(attempts, End::Exited(0));
    let after = cached.metadata().unwrap();
    assert_eq!(std::fs::read(&cached).unwrap(), b"original");
    let seal = |m: &std::fs::Metadata| (m.mode(), m.uid(), m.gid(), m.size(), m.mtime_nsec());
    assert_eq!(seal(&before), seal(&after));
    farm.stop();
}

#[test]
fn reclaim_opens_up_what_commands_left() {
    in_each_mode("reclaim_opens_up_what_commands_left", |farm| {
        assert_eq!(
            farm.end(shell(
                "mkdir -p closed/in; echo x > closed/in/f; chmod 0 closed/in/f closed/in closed; \
                 echo x > shut; chmod 0 shut; ln -s /etc/passwd link; \
                 echo x > one; ln one two; chmod 0 one"
            )),
            End::Exited(0)
        );
        let last = farm.last_directory();
        let changed = farm.reclaim();
        // The two directories, the two files.
        assert!(changed >= 4, "{changed}");
        let mode = |path: &str| last.join(path).metadata().unwrap().mode() & 0o7777;
        assert_eq!(mode("root/closed"), 0o777);
        assert_eq!(mode("root/closed/in"), 0o777);
        assert_eq!(mode("root/closed/in/f"), 0o444);
        assert_eq!(mode("root/shut"), 0o444);
        // Both of its names are here.
        assert_eq!(mode("root/one"), 0o444);
        assert_eq!(farm.reclaim(), 0);
    });
}

#[test]
fn nothing_tells_of_an_earlier_commands_network() {
    in_each_mode("nothing_tells_of_an_earlier_commands_network", |farm| {
        let look = "cat /proc/net/dev /proc/net/snmp /proc/net/netstat /proc/net/snmp6; \
                    readlink /proc/self/ns/net";
        let new = farm.output(shell(look));
        let snmp = farm.output(shell("cat /proc/net/snmp"));
        for _ in 0..4 {
            // Refused, and counted; more than once, so that each network has its turn.
            let connect = "echo > /dev/tcp/127.0.0.1/9 || cat /proc/net/snmp";
            let counted = farm.output(request(&["/bin/bash", "-c", connect]));
            assert!(counted.contains("Tcp:"));
            assert_ne!(counted, snmp);
        }
        let counters = |text: &str| text.rsplit_once("net:").unwrap().0.to_owned();
        for _ in 0..4 {
            let seen = farm.output(shell(look));
            assert_eq!(counters(&seen), counters(&new));
        }
    });
}

#[test]
fn paths_are_checked() {
    in_each_mode("paths_are_checked", |farm| {
        farm.prepare(|root| std::os::unix::fs::symlink("nowhere", root.join("dangling")).unwrap());
        let name = farm.name();
        assert!(farm.check(&format!("{name}/root/dangling")).is_ok());
        assert!(farm.check("").is_ok());
        assert_eq!(farm.check("none").unwrap_err().errno, libc::ENOENT);
        assert_eq!(farm.check("../etc").unwrap_err().errno, libc::EINVAL);
    });
}

#[test]
fn many_launches_leave_nothing() {
    in_each_mode("many_launches_leave_nothing", |farm| {
        assert_eq!(farm.end(shell("true")), End::Exited(0));
        farm.settle();
        let descriptors = farm.descriptors();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut open = BTreeSet::new();
        for _ in 0..500 {
            let mut run = request(&["/bin/true"]);
            farm.place(&mut run);
            open.insert(farm.send_run(&run));
            while open.len() >= 4 {
                farm.receive_done(&mut open);
            }
        }
        while !open.is_empty() {
            farm.receive_done(&mut open);
        }
        farm.assert_nothing_runs();
        farm.settle();
        // A network that waits for its next sandbox is seven descriptors; as many may
        // wait as the pool holds, two here, and sixteen for bursts.
        let kept = farm.descriptors().abs_diff(descriptors);
        assert!(kept <= 7 * 18, "{kept} more or fewer than {descriptors}");
        assert_eq!(
            std::fs::read_to_string("/proc/self/mountinfo").unwrap(),
            mounts
        );
    });
}

#[test]
fn the_death_of_either_half_ends_all() {
    for half in ["launcher", "service"] {
        until_dead("the_death_of_either_half_ends_all", |farm| {
            let mut run = shell("echo > started; sleep 1000");
            farm.place(&mut run);
            farm.send_run(&run);
            farm.wait_for_file("root/started");
            let all = farm.processes();
            // Launcher, service half, and at least init and the command.
            assert!(all.len() >= 4, "{all:?}");
            farm.kill_half(half);
            farm.wait_until_gone(&all);
        });
    }
}

#[test]
fn sigterm_is_passed_on_and_a_second_ends_all() {
    until_dead("sigterm_is_passed_on_and_a_second_ends_all", |farm| {
        let mut run = shell("echo > started; sleep 1000");
        farm.place(&mut run);
        farm.send_run(&run);
        farm.wait_for_file("root/started");
        let all = farm.processes();
        farm.terminate();
        farm.terminate();
        farm.wait_until_gone(&all);
    });
}

#[test]
fn an_input_root_can_be_the_root() {
    for mode in Mode::available("an_input_root_can_be_the_root") {
        let mut farm = Farm::start(mode, &["root=input"]);
        farm.prepare(farm::copy_userland);
        let run = || {
            request(&[
                "/bin/sh",
                "-c",
                "echo made > /out; echo t > /tmp/t; test -e /proc/self/status && \
                 test -c /dev/null && read uid < /proc/self/loginuid; echo * /dev/sh*; \
                 while read key value rest; do case $key in Uid:|CapEff:|CapBnd:|Seccomp:) \
                 echo $key $value;; esac; done < /proc/self/status",
            ])
        };
        let output = farm.output(run());
        assert_eq!(
            output,
            "bin dev lib lib64 out proc tmp /dev/shm\nUid: 0\nCapEff: 0000000000000000\n\
             CapBnd: 0000000000000000\nSeccomp: 2\n"
        );
        let last = farm.last_directory();
        assert_eq!(std::fs::read(last.join("root/out")).unwrap(), b"made\n");
        assert_eq!(std::fs::read(last.join("tmp/t")).unwrap(), b"t\n");
        for supplied in ["proc", "dev", "tmp"] {
            assert!(!last.join("root").join(supplied).exists(), "{supplied}");
        }
        farm.stop();
    }
}

#[test]
fn without_a_temporary_directory_tmp_is_private() {
    in_each_mode("without_a_temporary_directory_tmp_is_private", |farm| {
        let mut run = shell("echo x > /tmp/x && ls /tmp");
        farm.place(&mut run);
        run.temporary_directory.clear();
        let id = farm.send_run(&run);
        farm.receive_done(&mut BTreeSet::from([id]));
        assert_eq!(
            std::fs::read(farm.last_directory().join("stdout")).unwrap(),
            b"x\n"
        );
    });
}
