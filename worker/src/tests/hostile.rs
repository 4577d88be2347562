//! Trees that are made to harm whoever collects them.

use std::time::Duration;

use prost::Message;
use proto::wire::action::Facts;
use proto::wire::rev2::{Directory, ExecuteResponse, Tree};
use proto::{Digest, DigestFunction, messages};
use tonic::Code;

use super::execution::code;
use crate::testing::{Farm, Input, Manners, digest};

fn tree(farm: &Farm, response: &ExecuteResponse) -> Tree {
    let result = response.result.as_ref().unwrap();
    let wanted = result.output_directories[0].tree_digest.as_ref();
    let wanted = Digest::from_wire(DigestFunction::Sha256, wanted).unwrap();
    Tree::decode(farm.storage.get(&wanted).unwrap()).unwrap()
}

fn facts(response: &ExecuteResponse) -> Facts {
    let result = response.result.as_ref().unwrap();
    let metadata = result.execution_metadata.as_ref().unwrap();
    let mut facts = metadata
        .auxiliary_metadata
        .iter()
        .filter_map(|any| messages::unpack(any, "hayloft.action.v1.Facts"));
    facts.next().unwrap()
}

async fn limited(limits: &str) -> Farm {
    Farm::configured(Manners::default(), limits, "{}").await
}

#[tokio::test]
async fn links_out_of_the_root_are_reported_and_not_followed() {
    let mut farm = Farm::new(Manners::default()).await;
    let secret = farm.path("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("f"), "secret").unwrap();
    let secret = secret.display();
    let script = format!(
        "ln -s {secret}/f file; ln -s {secret} dir; rm -r above; ln -s {secret} above;
         mkdir d; ln -s {secret} d/link; ln {secret}/f d/hard 2>/dev/null; rm -f d/hard; :"
    );
    let paths = ["file", "dir", "above/f", "d"];
    let response = farm.execute(Input::script(&script).outputs(&paths)).await;
    assert_eq!(code(&response), Code::Ok, "{response:?}");
    let result = response.result.clone().unwrap();
    assert!(result.output_files.is_empty());
    let links: Vec<&str> = result
        .output_symlinks
        .iter()
        .map(|link| link.path.as_str())
        .collect();
    assert_eq!(links, ["file", "dir"]);
    let root = tree(&farm, &response).root.unwrap();
    assert_eq!((root.symlinks.len(), root.directories.len()), (1, 0));
    assert!(farm.storage.get(&digest(b"secret")).is_none());
    farm.end().await;
}

/// A plain runner does not end what an action leaves behind: here, something that
/// goes on to exchange a directory and a file for links to secrets while they are
/// collected. It ends when its input root is gone.
#[tokio::test]
async fn links_that_are_swapped_in_while_outputs_are_collected_are_not_followed() {
    let mut farm = Farm::new(Manners::default()).await;
    let secret = farm.path("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("f"), "secret").unwrap();
    let swapper = farm.path("swap");
    // renameat2(AT_FDCWD, ..., AT_FDCWD, ..., RENAME_EXCHANGE)
    let program = "do {
        $ok = 1;
        for $n ('d', 'f') {
            $from = $n eq 'd' ? 'out/d' : 'out/x/f'; $to = \"evil_$n\";
            $ok &&= syscall(316, -100, $from, -100, $to, 2) == 0;
        }
        if (!$told++) { open(F, '>', 'swapping'); close(F); }
    } while $ok;";
    std::fs::write(&swapper, program).unwrap();
    let (secret, swapper) = (secret.display(), swapper.display());
    for round in 0..50 {
        let script = format!(
            ": {round}; mkdir -p out/d out/x; i=0
             while [ $i -lt 40 ]; do echo fine > out/d/f$i; i=$((i+1)); done
             echo fine > out/d/f; echo fine > out/x/f; ln -s {secret} evil_d; ln -s {secret}/f evil_f
             perl {swapper} > /dev/null 2>&1 &
             until [ -e swapping ]; do :; done"
        );
        let input = Input::script(&script).outputs(&["out", "out/d/f", "out/x/f"]);
        // It may fail, as something is not what it was a moment ago.
        let _ = farm.execute(input).await;
        assert!(farm.storage.get(&digest(b"secret")).is_none());
    }
    farm.end().await;
}

#[tokio::test]
async fn fifos_sockets_and_devices_in_a_directory_are_left_out_and_named() {
    let mut farm = Farm::new(Manners::default()).await;
    let script = "mkdir -p d/sub; echo x > d/f; mkfifo d/sub/fifo; cd d;
        perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); bind(S, pack_sockaddr_un(\"socket\"))'";
    let response = farm.execute(Input::script(script).outputs(&["d"])).await;
    assert_eq!(code(&response), Code::Ok, "{response:?}");
    let tree = tree(&farm, &response);
    assert_eq!(tree.root.unwrap().files.len(), 1);
    assert!(tree.children[0].files.is_empty());
    let facts = facts(&response);
    let mut left_out: Vec<(&str, &str)> = facts
        .left_out
        .iter()
        .map(|left_out| (left_out.path.as_str(), left_out.what.as_str()))
        .collect();
    left_out.sort_unstable();
    assert_eq!(
        left_out,
        [("d/socket", "a socket"), ("d/sub/fifo", "a FIFO")]
    );
    assert!(response.message.contains("Left out of the outputs"));
    assert!(response.message.contains("1 more"), "{}", response.message);
    farm.end().await;
}

#[tokio::test]
async fn a_device_as_an_output_is_refused_by_name() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP a_device_as_an_output_is_refused_by_name: only root makes devices");
        return;
    }
    let mut farm = Farm::new(Manners::default()).await;
    // A whiteout, as overlays have them, is a device too.
    let input = Input::script("mknod zero c 1 5 && mknod whiteout c 0 0");
    let response = farm.execute(input.outputs(&["zero", "whiteout"])).await;
    assert_eq!(code(&response), Code::InvalidArgument);
    let message = response.status.unwrap().message;
    assert!(message.contains("\"zero\" is a device"), "{message}");
    farm.end().await;
}

#[tokio::test]
async fn more_files_than_allowed_are_refused_and_the_log_is_not() {
    let mut farm = limited(r#"{"maximum_output_entries": 5000}"#).await;
    let script =
        "mkdir many; cd many; seq 1 6000 | xargs touch; cd ..; mkdir few; touch few/f; echo log";
    let input = Input::script(script).outputs(&["many", "few"]);
    let response = farm.execute(input).await;
    assert_eq!(code(&response), Code::ResourceExhausted);
    let message = response.status.clone().unwrap().message;
    assert!(message.contains("limit of 5000"), "{message}");
    let result = response.result.unwrap();
    assert_eq!(result.stdout_digest, Some(digest(b"log\n").to_wire()));
    assert_eq!(result.output_directories.len(), 1);
    assert_eq!(result.output_directories[0].path, "few");
    farm.end().await;
}

#[tokio::test]
async fn thousands_of_files_and_names_of_one_file_are_reported() {
    let mut farm = limited(r#"{"maximum_output_size_bytes": 75000}"#).await;
    // 4,000 files of 5 bytes; and 4,000 names of one file, which would be far
    // too large if each of them counted.
    let script = "mkdir d; cd d; seq -w 1 4000 | split -l 1 -a 4 - f
        head -c 50000 /dev/zero > one; mkdir h
        perl -e 'link(\"one\", \"h/$_\") for 1..4000'";
    let response = farm.execute(Input::script(script).outputs(&["d"])).await;
    assert_eq!(code(&response), Code::Ok, "{response:?}");
    let tree = tree(&farm, &response);
    let root = tree.root.unwrap();
    assert_eq!(root.files.len(), 4_001);
    let wanted = Some(digest(b"0001\n").to_wire());
    assert!(root.files.iter().any(|file| file.digest == wanted));
    let zeros = Some(digest(&[0; 50_000]).to_wire());
    let links = &tree.children[0].files;
    assert_eq!(links.len(), 4_000);
    assert!(links.iter().all(|file| file.digest == zeros));
    farm.end().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_its_size_before_it_is_read() {
    let mut farm = limited(r#"{"maximum_output_size_bytes": 1000000}"#).await;
    // Reading so much nothing would take hours.
    let script = "echo log; truncate -s 1T sparse; mkdir d; truncate -s 1T d/s;
        echo small > small; head -c 900000 /dev/zero > large; head -c 900000 /dev/zero > larger";
    let paths = ["sparse", "d", "small", "large", "larger"];
    let response = farm.execute(Input::script(script).outputs(&paths)).await;
    assert_eq!(code(&response), Code::ResourceExhausted);
    let message = response.status.clone().unwrap().message;
    for part in ["\"sparse\"", "1099511627776", "1000000"] {
        assert!(message.contains(part), "{message}");
    }
    let result = response.result.unwrap();
    assert_eq!(result.stdout_digest, Some(digest(b"log\n").to_wire()));
    let names: Vec<&str> = result
        .output_files
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    assert_eq!(names, ["small", "large"]);
    assert!(result.output_directories.is_empty());
    farm.end().await;
}

#[tokio::test]
async fn a_log_that_is_too_large_costs_only_itself() {
    let mut farm = limited(r#"{"maximum_output_size_bytes": 1000}"#).await;
    let input = Input::script("seq 1 1000; echo x > out").outputs(&["out"]);
    let response = farm.execute(input).await;
    assert_eq!(code(&response), Code::ResourceExhausted);
    let message = response.status.clone().unwrap().message;
    assert!(message.contains("\"stdout\" of 3893 bytes"), "{message}");
    let result = response.result.unwrap();
    assert_eq!(result.stdout_digest, None);
    assert_eq!(result.output_files.len(), 1);
    farm.end().await;
}

#[tokio::test]
async fn directories_5000_deep_are_reported_and_removed() {
    let mut farm = Farm::new(Manners::default()).await;
    // Beside some a directory that is looked at on the way back.
    let script = "perl -e 'mkdir(\"d\"); chdir(\"d\");
        for $level (0..4999) {
            open(F, \">\", \"f\"); print F $level; close(F);
            mkdir(\"beside\") if $level % 50 == 0; mkdir(\"n\"); chdir(\"n\") or die;
        }'";
    let response = farm.execute(Input::script(script).outputs(&["d"])).await;
    assert_eq!(code(&response), Code::Ok, "{response:?}");
    assert_eq!(response.result.as_ref().unwrap().exit_code, 0);
    let tree = tree(&farm, &response);
    // The directories beside are all empty, and so equal to the innermost one.
    assert_eq!(tree.children.len(), 5000);
    let mut at = tree.root.unwrap();
    let mut below = tree.children.into_iter();
    for level in 0..5000 {
        let wanted = digest(level.to_string().as_bytes()).to_wire();
        assert_eq!(at.files[0].digest.as_ref(), Some(&wanted));
        assert_eq!(at.directories.len(), if level % 50 == 0 { 2 } else { 1 });
        at = below.next().unwrap();
        if at == Directory::default() && level < 4999 {
            at = below.next().unwrap();
        }
    }
    farm.end().await;
}

/// Something that an action left behind goes on writing, as it may where the
/// runner is a plain one. It ends when its file is gone.
#[tokio::test]
async fn files_that_grow_while_they_are_collected_are_right_or_refused() {
    let mut farm = Farm::new(Manners::default()).await;
    for size in [10, 1_000_000] {
        let script = format!(
            "mkdir d; head -c {size} /dev/zero > d/f; : > d/e
             (cd d; while [ -e e ] && echo more >> f; do :; done) > /dev/null 2>&1 &
             until [ $(wc -c < d/f) -gt {size} ]; do :; done"
        );
        let response = farm.execute(Input::script(&script).outputs(&["d"])).await;
        let status = code(&response);
        if status == Code::Ok {
            let root = tree(&farm, &response).root.unwrap();
            let file = root.files.iter().find(|file| file.name == "f").unwrap();
            let stored = Digest::from_wire(DigestFunction::Sha256, file.digest.as_ref()).unwrap();
            let bytes = farm.storage.get(&stored).unwrap();
            let (zeros, more) = bytes.split_at(size);
            assert!(!more.is_empty());
            assert!(zeros.iter().all(|byte| *byte == 0));
            assert!(more.iter().all(|byte| b"more\n".contains(byte)));
        } else {
            assert!(!response.status.unwrap().message.is_empty());
        }
    }
    farm.end().await;
}

#[tokio::test]
async fn links_whose_targets_are_no_text_are_refused_by_name() {
    let mut farm = Farm::new(Manners::default()).await;
    let script = r#"mkdir d; ln -s "$(printf '\377')" d/link"#;
    let response = farm.execute(Input::script(script).outputs(&["d"])).await;
    assert_eq!(code(&response), Code::InvalidArgument);
    let message = response.status.unwrap().message;
    assert!(
        message.contains("d/link") && message.contains("UTF-8"),
        "{message}"
    );
    farm.end().await;
}

#[tokio::test]
async fn equal_and_nested_outputs_each_have_their_entry() {
    let mut farm = Farm::new(Manners::default()).await;
    let script = "mkdir -p d/sub; echo x > d/sub/f";
    let paths = ["d", "d/sub", "d/sub/f", "d/../d/sub/f", "./d"];
    let response = farm.execute(Input::script(script).outputs(&paths)).await;
    assert_eq!(code(&response), Code::Ok, "{response:?}");
    let result = response.result.unwrap();
    assert_eq!(result.output_directories.len(), 3);
    assert_eq!(result.output_files.len(), 2);
    farm.end().await;
}

#[tokio::test]
async fn an_action_that_overruns_with_a_hostile_tree_still_has_its_log() {
    let mut farm = limited(r#"{"maximum_output_entries": 10}"#).await;
    let script = "echo log; mkdir d; while :; do mktemp -p d > /dev/null; done";
    let mut input = Input::script(script).outputs(&["d"]);
    input.action.timeout = Some(messages::duration(Duration::from_millis(500)));
    let response = farm.execute(input).await;
    // What came first is what is told.
    assert_eq!(code(&response), Code::DeadlineExceeded, "{response:?}");
    let result = response.result.unwrap();
    assert_eq!(result.stdout_digest, Some(digest(b"log\n").to_wire()));
    farm.end().await;
}
