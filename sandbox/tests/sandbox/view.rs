//! What commands see beside their input root.

use std::os::unix::fs::MetadataExt;

use sandbox::{End, IdPair, RunRequest};

use crate::farm::{Farm, Mode, shell};

#[test]
fn a_machine_is_like_any_other() {
    for root in ["host", "input"] {
        for mode in Mode::available("a_machine_is_like_any_other") {
            let mut farm = Farm::start(mode, &[&format!("root={root}")]);
            farm.prepare(|place| {
                if root == "input" {
                    crate::farm::copy_userland(place);
                }
            });
            // The shell's own means: an input root holds nothing else.
            let boot = farm.output(shell("read id < /proc/sys/kernel/random/boot_id; echo $id"));
            assert_eq!(boot, "6861796c-6f66-4740-8000-000000000001\n");
            let write = shell("echo x > /proc/sys/kernel/random/boot_id");
            assert_ne!(farm.end(write), End::Exited(0));
            if root == "host" {
                let machine = farm.output(shell("cat /etc/machine-id"));
                assert_eq!(machine, "6861796c6f6674000000000000000001\n");
            }
            farm.stop();
        }
    }
}

#[test]
fn devices_are_the_harmless_ones() {
    for mode in Mode::available("devices_are_the_harmless_ones") {
        let mut farm = Farm::start(mode, &[]);
        let expected = "fd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\n\
                        urandom\nzero\n";
        assert_eq!(farm.output(shell("ls /dev")), expected);
        let use_them = "head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; \
                        echo x > /dev/null; cat < /dev/stdin; echo out >> /dev/stdout; \
                        ! echo x 2>/dev/null > /dev/full";
        assert_eq!(farm.output(shell(use_them)), "4\n4\nout\n");
        farm.stop();
    }
}

#[test]
fn configured_places_are_there() {
    for mode in Mode::available("configured_places_are_there") {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP configured_places_are_there: needs root");
            return;
        }
        // Not below /tmp, which is the action's own.
        let place = || {
            let place = tempfile::tempdir_in("/srv").unwrap();
            crate::farm::set_mode(place.path(), 0o777);
            place
        };
        let (read, write) = (place(), place());
        std::fs::write(read.path().join("file"), "content").unwrap();
        let mut farm = Farm::start(
            mode,
            &[
                &format!("ro={}", read.path().display()),
                &format!("rw={}", write.path().display()),
                "link=/scratch/here",
            ],
        );
        let (r, w) = (read.path().display(), write.path().display());
        assert_eq!(farm.output(shell(&format!("cat {r}/file"))), "content");
        assert_eq!(farm.end(shell(&format!("touch {r}/new"))), End::Exited(1));
        assert_eq!(
            farm.end(shell(&format!("echo made > {w}/new"))),
            End::Exited(0)
        );
        assert_eq!(
            std::fs::read_to_string(write.path().join("new")).unwrap(),
            "made\n"
        );
        assert_eq!(farm.output(shell(&format!("cat {w}/new"))), "made\n");
        assert_eq!(
            farm.output(shell("echo x > /scratch/here/f; cat /tmp/f")),
            "x\n"
        );
        farm.stop();
    }
}

#[test]
fn on_the_host_s_network_names_are_found_as_there() {
    for mode in Mode::available("on_the_host_s_network_names_are_found_as_there") {
        let mut farm = Farm::start(mode, &["off=network_namespace"]);
        let here = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        assert_eq!(farm.output(shell("cat /etc/hosts")), here);
        farm.stop();
    }
}

#[test]
fn nobody_sees_that_an_input_was_read() {
    let Some(mode) = Mode::root("nobody_sees_that_an_input_was_read") else {
        return;
    };
    let mut farm = Farm::start(mode, &[]);
    farm.prepare(|root| std::fs::write(root.join("input"), "bytes").unwrap());
    let input = farm.last_directory().join("root/input");
    // Long ago, so that a read would be noted even where only the first one is.
    let long_ago = std::fs::FileTimes::new().set_accessed(std::time::SystemTime::UNIX_EPOCH);
    let file = std::fs::File::open(&input).unwrap();
    file.set_times(long_ago).unwrap();
    assert_eq!(farm.output(shell("cat input")), "bytes");
    assert_eq!(file.metadata().unwrap().atime(), 0);
    farm.stop();
}

/// What the kernel says of a process's privileges.
const PRIVILEGES: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status";

#[test]
fn a_command_is_who_its_request_says_and_no_more_privileged() {
    for mode in Mode::available("a_command_is_who_its_request_says_and_no_more_privileged") {
        let mut farm = Farm::start(mode, &[]);
        let usual = farm.output(shell(PRIVILEGES));
        let owner = |farm: &Farm| {
            let made = farm.last_directory().join("root/made").metadata().unwrap();
            (made.uid(), made.gid())
        };
        farm.output(shell("touch made"));
        let usual_owner = owner(&farm);
        for (uid, gid) in [(77, 88), (0, 1000), (4_000_000_000, 0)] {
            let run = |script: &str| RunRequest {
                ids: Some(IdPair { uid, gid }),
                ..shell(script)
            };
            let who = farm.output(run(
                "id -u; id -g; touch made; stat -c '%u %g' made /proc/self/",
            ));
            let own = format!("{uid} {gid}\n");
            assert_eq!(who, format!("{uid}\n{gid}\n{own}{own}"), "{mode:?}");
            // Of a range each sandbox has another of its own.
            if mode != Mode::Range && mode != Mode::Subordinate {
                assert_eq!(owner(&farm), usual_owner, "{mode:?}");
            }
            assert_eq!(farm.output(run(PRIVILEGES)), usual, "{mode:?}");
            for closed in [
                "unshare --user true",
                "cat /proc/1/environ",
                "setpriv --reuid 1 true",
            ] {
                assert_ne!(farm.end(run(closed)), End::Exited(0), "{mode:?} {closed}");
            }
        }
        // The next is as usual.
        assert_eq!(farm.output(shell("id -u; id -g")), "1000\n1000\n");
        farm.stop();
    }
}
