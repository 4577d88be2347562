//! The seal: hardlinks only where actions cannot alter them.

use std::os::unix::fs::MetadataExt;

use super::execution::code;
use crate::testing::{Farm, Input, Manners, digest};

/// A user that is not the test's own.
const OTHER: Manners = Manners {
    uid: Some(65534),
    refuses: None,
    own_uids: false,
    stopping: false,
    plain: false,
};

/// Whether the test can run commands as another user; says so if not.
fn root(name: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("SKIP {name}: only root can run commands as another user");
    }
    root
}

/// The links of the input that an action sees: 1 for a copy.
async fn links(farm: &mut Farm, salt: &str) -> String {
    let script = format!(": {salt}; stat -c %h in");
    let mut response;
    loop {
        let input = Input::script(&script).file(&farm.storage, "in", b"input");
        response = farm.execute(input).await;
        // A runner whose end is not noticed yet costs one action.
        if code(&response) != tonic::Code::Internal {
            break;
        }
    }
    assert_eq!(code(&response), tonic::Code::Ok, "{response:?}");
    let stdout = response.result.unwrap().stdout_digest;
    let stdout = proto::Digest::from_wire(proto::DigestFunction::Sha256, stdout.as_ref()).unwrap();
    let bytes = farm.storage.get(&stdout).unwrap();
    String::from_utf8(bytes.to_vec()).unwrap().trim().into()
}

#[tokio::test]
async fn a_runner_of_the_workers_own_user_gets_copies() {
    let mut farm = Farm::new(Manners::default()).await;
    assert_eq!(links(&mut farm, "").await, "1");
    let spoil = "chmod 666 in && echo spoiled > in";
    let input = Input::script(spoil).file(&farm.storage, "in", b"input");
    assert_eq!(farm.execute(input).await.result.unwrap().exit_code, 0);
    check_cached(&farm);
    farm.end().await;
}

#[tokio::test]
async fn a_runner_of_another_user_gets_hardlinks_and_cannot_spoil_them() {
    if !root("a_runner_of_another_user_gets_hardlinks_and_cannot_spoil_them") {
        return;
    }
    let mut farm = Farm::new(OTHER).await;
    assert_eq!(links(&mut farm, "").await, "2");
    let spoil = "chmod 666 in; echo spoiled > in; touch -d 2020-01-01 in; ln in other;
        rm in; echo mine > in; cat in";
    let input = Input::script(spoil).file(&farm.storage, "in", b"input");
    let result = farm.execute(input).await.result.unwrap();
    // Its own tree is its to change.
    assert_eq!(result.stdout_digest, Some(digest(b"mine\n").to_wire()));
    check_cached(&farm);
    farm.end().await;
}

fn check_cached(farm: &Farm) {
    let name = format!("cache/1-{}-x", digest(b"input"));
    let path = farm.path(&name);
    assert_eq!(std::fs::read(&path).unwrap(), b"input");
    let metadata = path.metadata().unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o444);
    assert_eq!(metadata.mtime(), crate::files::FIXED_TIME);
    assert_eq!(metadata.uid(), nix::unistd::geteuid().as_raw());
}

#[tokio::test]
async fn a_runner_that_does_not_run_the_probe_gets_no_hardlinks() {
    if !root("a_runner_that_does_not_run_the_probe_gets_no_hardlinks") {
        return;
    }
    // Its actions could not alter anything; but nobody has seen that.
    let mut farm = Farm::new(Manners {
        refuses: Some(tonic::Code::InvalidArgument),
        ..OTHER
    })
    .await;
    assert_eq!(links(&mut farm, "").await, "1");
    farm.end().await;
}

#[tokio::test]
async fn a_probe_that_fails_in_passing_is_repeated() {
    if !root("a_probe_that_fails_in_passing_is_repeated") {
        return;
    }
    let mut farm = Farm::new(Manners {
        refuses: Some(tonic::Code::ResourceExhausted),
        ..OTHER
    })
    .await;
    assert_eq!(links(&mut farm, "").await, "2");
    farm.end().await;
}

#[tokio::test]
async fn a_runner_that_takes_anothers_place_is_probed_anew() {
    if !root("a_runner_that_takes_anothers_place_is_probed_anew") {
        return;
    }
    let mut farm = Farm::new(OTHER).await;
    assert_eq!(links(&mut farm, "first").await, "2");
    farm.kill_runner();
    farm.start_runner(Manners::default());
    assert_eq!(links(&mut farm, "second").await, "1");
    farm.kill_runner();
    farm.start_runner(OTHER);
    assert_eq!(links(&mut farm, "third").await, "2");
    farm.end().await;
}

#[tokio::test]
async fn a_file_with_a_mode_and_time_of_its_own_is_a_private_copy() {
    if !root("a_file_with_a_mode_and_time_of_its_own_is_a_private_copy") {
        return;
    }
    let mut farm = Farm::new(OTHER).await;
    let input = Input::script("stat -c '%n %a %Y %h' own plain; cat own")
        .file(&farm.storage, "own", b"same bytes")
        .file(&farm.storage, "plain", b"same bytes")
        .properties("own", 0o705, 1_234_567_890);
    let response = farm.execute(input).await;
    assert_eq!(code(&response), tonic::Code::Ok, "{response:?}");
    let expected = "own 705 1234567890 1\nplain 444 946684800 2\nsame bytes";
    let stdout = response.result.unwrap().stdout_digest;
    assert_eq!(stdout, Some(digest(expected.as_bytes()).to_wire()));
    farm.end().await;
}

#[tokio::test]
async fn what_other_users_close_off_is_opened_by_the_runner() {
    if !root("what_other_users_close_off_is_opened_by_the_runner") {
        return;
    }
    // As root nothing is closed off for the worker; that the files are read
    // and removed is all that can be seen here.
    let mut farm = Farm::new(OTHER).await;
    let script = "mkdir -m 0 d closed; echo secret > out; chmod 0 out";
    let response = farm
        .execute(Input::script(script).outputs(&["out", "d"]))
        .await;
    assert_eq!(code(&response), tonic::Code::Ok, "{response:?}");
    assert!(farm.storage.get(&digest(b"secret\n")).is_some());
    farm.end().await;
}

/// The inodes of the input roots in the trash, where emptied directories wait.
fn waiting(farm: &Farm) -> Vec<u64> {
    // The worker makes it when it starts.
    let entries = std::fs::read_dir(farm.path("build/trash"));
    let roots = entries.into_iter().flatten();
    let roots = roots.map(|entry| entry.unwrap().path().join("root"));
    let inodes = roots.filter_map(|root| root.metadata().ok());
    inodes.map(|metadata| metadata.ino()).collect()
}

/// Runs actions until one is given a directory that was waiting.
async fn used_again(farm: &mut Farm, salt: &str) -> bool {
    // A directory is emptied beside the next actions.
    for round in 0..100 {
        let waiting = waiting(farm);
        let script =
            format!("ls -A . $TMPDIR; stat -c %i .; echo {salt}{round} > left; mkdir $TMPDIR/left");
        let result = farm.execute(Input::script(&script)).await.result.unwrap();
        let stdout = result.stdout_digest.as_ref();
        let stdout = proto::Digest::from_wire(proto::DigestFunction::Sha256, stdout).unwrap();
        let bytes = farm.storage.get(&stdout).unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(!text.contains("left"), "{text}");
        let inode = text.lines().last().unwrap().parse().unwrap();
        if waiting.contains(&inode) {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn emptied_directories_are_used_again_and_outlive_the_session() {
    if !root("emptied_directories_are_used_again_and_outlive_the_session") {
        return;
    }
    let own_uids = Manners {
        own_uids: true,
        ..OTHER
    };
    let mut farm = Farm::new(own_uids).await;
    assert!(used_again(&mut farm, "first").await);
    farm.kill_runner();
    farm.start_runner(own_uids);
    assert_eq!(links(&mut farm, "second").await, "2");
    assert!(used_again(&mut farm, "third").await);
    farm.end().await;
}
