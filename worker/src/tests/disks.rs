//! Disks that are full, and more than one of them.

use proto::{Digest, DigestFunction};
use tonic::Code;

use super::execution::code;
use crate::testing::{Farm, Input, Manners, may_mount};

/// 24 MiB and 2,000 inodes, a third of which must be free before there is work.
const DISK: &str = "size=24m,nr_inodes=2000";
const LIMITS: &str = r#"{"minimum_free_space_bytes": 8388608, "minimum_free_inodes": 600}"#;

const FULL: &str = "hayloft_worker_disk_full 1";

fn says(farm: &Farm, line: &str) -> bool {
    farm.diagnostics.metrics().to_text().contains(line)
}

/// Executes what ends when the disk is short of something, and what is handed out
/// then but must wait until `relieve` has made room.
async fn out_of_service(farm: &mut Farm, salt: &str, relieve: impl FnOnce(&Farm)) {
    // The call that brings this one was made while there was room.
    let first = Input::script(&format!("echo first {salt}"));
    let response = farm.execute(first).await;
    assert_eq!(code(&response), Code::Ok, "{response:?}");
    while farm.heard.recv().await.unwrap() != "completed, prefers being idle" {}
    let next = Input::script(&format!("echo next {salt}")).store(&farm.storage);
    farm.scheduler.hand_out(next);
    while !says(farm, FULL) {
        tokio::task::yield_now().await;
    }
    relieve(farm);
    // Nothing was asked for in between.
    assert_eq!(farm.heard.recv().await.unwrap(), "idle");
    assert_eq!(code(&farm.completed().await), Code::Ok);
    assert!(!says(farm, FULL));
}

#[tokio::test]
async fn a_full_disk_takes_the_slot_out_of_service_until_there_is_room() {
    let name = "a_full_disk_takes_the_slot_out_of_service_until_there_is_room";
    if !may_mount(name) {
        return;
    }
    let mut farm = Farm::on_disk(Manners::default(), LIMITS, ".", DISK).await;
    while farm.heard.recv().await.unwrap() != "idle" {}
    let filler = farm.path("filler");
    std::fs::write(&filler, vec![0; 18 << 20]).unwrap();
    out_of_service(&mut farm, "bytes", |_| {
        std::fs::remove_file(&filler).unwrap();
    })
    .await;

    // The result just delivered brings the next action whatever the disk has.
    let response = farm.execute(Input::script("echo between")).await;
    assert_eq!(code(&response), Code::Ok);
    std::fs::create_dir(&filler).unwrap();
    for n in 0..1_600 {
        std::fs::write(filler.join(n.to_string()), "").unwrap();
    }
    out_of_service(&mut farm, "inodes", |_| {
        std::fs::remove_dir_all(&filler).unwrap();
    })
    .await;
    farm.end().await;
}

#[tokio::test]
async fn what_does_not_fit_on_the_disk_is_refused_and_the_worker_goes_on() {
    let name = "what_does_not_fit_on_the_disk_is_refused_and_the_worker_goes_on";
    if !may_mount(name) {
        return;
    }
    let mut farm = Farm::on_disk(Manners::default(), LIMITS, ".", DISK).await;
    // One too large, and many that are too large together.
    let one = Input::script("true").file(&farm.storage, "in", &vec![1; 30 << 20]);
    let mut many = Input::script("true");
    for n in 0..60_u8 {
        many = many.file(&farm.storage, &n.to_string(), &vec![n; 500_000]);
    }
    for input in [one, many] {
        let response = farm.execute(input).await;
        assert_eq!(code(&response), Code::ResourceExhausted, "{response:?}");
        let message = response.status.unwrap().message;
        assert!(message.contains("No space left"), "{message}");
    }
    // An output that does not fit is the command's own failure, and what there is of
    // it comes back.
    let script = "echo log; head -c 40000000 /dev/zero > out";
    let response = farm.execute(Input::script(script).outputs(&["out"])).await;
    assert_eq!(code(&response), Code::Ok, "{response:?}");
    let result = response.result.unwrap();
    assert_ne!(result.exit_code, 0);
    assert_eq!(result.output_files.len(), 1);
    let input = Input::script("cat in").file(&farm.storage, "in", b"fits");
    let response = farm.execute(input).await;
    assert_eq!(code(&response), Code::Ok, "{response:?}");
    farm.end().await;
}

#[tokio::test]
async fn a_cache_on_another_file_system_gives_copies() {
    let name = "a_cache_on_another_file_system_gives_copies";
    if !may_mount(name) {
        return;
    }
    // Another user's actions would get hardlinks otherwise.
    let manners = Manners {
        uid: Some(65534),
        ..Manners::default()
    };
    let mut farm = Farm::on_disk(manners, LIMITS, "cache", DISK).await;
    let input = Input::script("stat -c %h in; cat in").file(&farm.storage, "in", b"input");
    let response = farm.execute(input).await;
    assert_eq!(code(&response), Code::Ok, "{response:?}");
    let stdout = response.result.unwrap().stdout_digest;
    let stdout = Digest::from_wire(DigestFunction::Sha256, stdout.as_ref()).unwrap();
    assert_eq!(farm.storage.get(&stdout).unwrap(), "1\ninput");
    farm.end().await;
}
