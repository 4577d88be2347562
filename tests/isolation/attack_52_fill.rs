//! Attack 52: an action fills what it can write to: memory file systems, files, its
//! standard output. Each has an end, and the next action finds room. (Memory itself
//! is bounded by control groups, which not every host gives.)

use serde_json::json;
use tests::user::As;

use crate::lone_runner::{LoneRunner, Place};

const MIB: u64 = 1 << 20;

fn end(runner: &mut LoneRunner, script: &str) -> (i64, String) {
    let words = ["/bin/sh", "-c", script].map(str::to_owned);
    runner.run(&words).expect("the command runs")
}

#[test]
fn what_an_action_fills_has_an_end() {
    for who in As::possible() {
        let place = Place::new(*who);
        let limits = json!({"limits": {
            "tmpfs_size_bytes": MIB,
            "shm_size_bytes": MIB,
            "file_size_bytes": 2 * MIB,
            "output_bytes": MIB,
        }});
        let mut runner = place.start(&[], &limits).expect("the runner starts");
        for folder in ["/dev/shm", "/var/tmp"] {
            let fill = format!("head -c 1500000 /dev/zero > {folder}/file; ls -s {folder}; exit 7");
            let (code, listed) = end(&mut runner, &fill);
            assert_eq!(code, 7, "{listed}");
            let files = format!(
                "cd {folder}; i=0; while touch $i; do i=$((i+1)); done 2>/dev/null; echo $i"
            );
            let (_, made) = end(&mut runner, &files);
            let made: u64 = made.trim().parse().expect("a number");
            assert!((64..=MIB / 4096).contains(&made), "{made} files");
            let (code, _) = end(
                &mut runner,
                &format!("head -c 900000 /dev/zero > {folder}/file"),
            );
            assert_eq!(code, 0, "there is room again");
        }
        let (code, _) = end(&mut runner, "head -c 4000000 /dev/zero > file");
        // SIGXFSZ.
        assert_eq!(code, 128 + 25);
    }
}

#[test]
fn standard_output_has_an_end() {
    for who in As::possible() {
        let place = Place::new(*who);
        let limits = json!({"limits": {"output_bytes": MIB}});
        let mut runner = place.start(&[], &limits).expect("the runner starts");
        let words = ["/bin/sh", "-c", "yes"].map(str::to_owned);
        match runner.run(&words) {
            Ok((code, output)) => {
                assert_ne!(code, 0);
                assert!(output.len() as u64 <= 2 * MIB, "{} bytes", output.len());
            }
            Err(status) => assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}"),
        }
        assert_eq!(end(&mut runner, "echo on"), (0, "on\n".into()));
    }
}
