//! What is reported of what an action left.

use prost::Message;
use proto::wire::rev2::command::OutputDirectoryFormat;
use proto::wire::rev2::{Directory, Tree};
use proto::{Digest, DigestFunction};
use tonic::Code;

use super::execution::code;
use crate::testing::{Farm, Input, Manners, digest};

fn blob(farm: &Farm, digest: Option<&proto::wire::rev2::Digest>) -> bytes::Bytes {
    let digest = Digest::from_wire(DigestFunction::Sha256, digest).unwrap();
    farm.storage.get(&digest).unwrap()
}

#[tokio::test]
async fn files_directories_and_links_are_reported_as_what_they_are() {
    let mut farm = Farm::new(Manners::default()).await;
    let script = "mkdir -p d/sub/empty e; echo x > d/sub/f; cp d/sub/f d/x; chmod +x d/x;
        ln -s ../nowhere d/link; mkfifo d/fifo; rmdir to_d; ln -s d to_d; echo x > exe; chmod 755 exe";
    let mut input = Input::script(script).outputs(&["d", "to_d", "to_d/x", "e", "./exe", "exe"]);
    input.command.output_directory_format = OutputDirectoryFormat::TreeAndDirectory.into();
    let response = farm.execute(input).await;
    assert_eq!(code(&response), Code::Ok, "{response:?}");
    let result = response.result.unwrap();
    let names: Vec<&str> = result
        .output_files
        .iter()
        .map(|f| f.path.as_str())
        .collect();
    assert_eq!(names, ["./exe", "exe"]);
    assert!(result.output_files[0].is_executable);
    // to_d/x leads through a link, that the action put in the place of the
    // directory made for the output, and is therefore not there.
    assert_eq!(result.output_symlinks.len(), 1);
    assert_eq!(result.output_symlinks[0].target, "d");

    assert_eq!(result.output_directories.len(), 2);
    let directory = &result.output_directories[0];
    assert!(directory.is_topologically_sorted);
    let tree = Tree::decode(blob(&farm, directory.tree_digest.as_ref())).unwrap();
    let root = tree.root.unwrap();
    assert_eq!(root.files.len(), 1);
    assert!(root.files[0].is_executable);
    assert_eq!(root.symlinks[0].target, "../nowhere");
    assert_eq!(root.directories[0].name, "sub");
    assert_eq!(tree.children.len(), 2);
    assert_eq!(tree.children[0].directories[0].name, "empty");
    assert_eq!(tree.children[0].files[0].name, "f");
    assert_eq!(tree.children[1], Directory::default());
    let stored = blob(&farm, directory.root_directory_digest.as_ref());
    assert_eq!(Directory::decode(stored).unwrap(), root);
    farm.end().await;
}

#[tokio::test]
async fn trees_list_each_directory_once_and_parents_first() {
    let mut farm = Farm::new(Manners::default()).await;
    let script = "mkdir -p d/a/same/leaf d/b/c/same/leaf; echo 1 > d/a/same/leaf/f;
        cp d/a/same/leaf/f d/b/c/same/leaf/f";
    let response = farm.execute(Input::script(script).outputs(&["d"])).await;
    let result = response.result.unwrap();
    let directory = &result.output_directories[0];
    assert_eq!(directory.root_directory_digest, None);
    let tree = Tree::decode(blob(&farm, directory.tree_digest.as_ref())).unwrap();
    // b, same and leaf, and one for both a and c, which are equal.
    assert_eq!(tree.children.len(), 4);
    let digests: Vec<_> = tree
        .children
        .iter()
        .map(|child| digest(&child.encode_to_vec()).to_wire())
        .collect();
    for (place, child) in tree.children.iter().enumerate() {
        for below in &child.directories {
            let at = digests
                .iter()
                .position(|d| Some(d) == below.digest.as_ref());
            assert!(at.unwrap() > place);
        }
    }
    farm.end().await;
}

#[tokio::test]
#[allow(deprecated)]
async fn the_older_fields_are_answered_in_kind() {
    let mut farm = Farm::new(Manners::default()).await;
    let older = |script: &str, files: &[&str], directories: &[&str]| {
        let mut input = Input::script(script);
        input.command.output_files = files.iter().map(ToString::to_string).collect();
        input.command.output_directories = directories.iter().map(ToString::to_string).collect();
        input
    };
    let script = "echo x > f; mkdir d; ln -s f to_f; ln -s d to_d";
    let response = farm
        .execute(older(
            script,
            &["f", "to_f", "gone"],
            &["d", "to_d", "gone_d"],
        ))
        .await;
    assert_eq!(code(&response), Code::Ok);
    let result = response.result.unwrap();
    assert_eq!(result.output_files.len(), 1);
    assert_eq!(result.output_directories.len(), 1);
    assert!(result.output_symlinks.is_empty());
    assert_eq!(result.output_file_symlinks[0].path, "to_f");
    assert_eq!(result.output_directory_symlinks[0].path, "to_d");

    let response = farm.execute(older("mkdir f", &["f"], &[])).await;
    assert_eq!(code(&response), Code::FailedPrecondition);
    let response = farm.execute(older("echo > d", &[], &["d"])).await;
    assert_eq!(code(&response), Code::FailedPrecondition);
    assert!(response.status.unwrap().message.contains("\"d\""));
    farm.end().await;
}

#[tokio::test]
async fn what_is_no_file_directory_or_link_is_refused_without_waiting_for_it() {
    let mut farm = Farm::new(Manners::default()).await;
    let response = farm
        .execute(Input::script("mkfifo out; echo log").outputs(&["out"]))
        .await;
    assert_eq!(code(&response), Code::InvalidArgument);
    assert!(response.status.unwrap().message.contains("\"out\""));
    assert_eq!(response.result.unwrap().exit_code, 0);
    farm.end().await;
}

#[tokio::test]
async fn invalid_output_paths_are_refused_before_anything_runs() {
    let mut farm = Farm::new(Manners::default()).await;
    for path in ["/etc/passwd", "../x", "a\0b", &"x".repeat(300)] {
        let script = format!("echo ran > {}", farm.path("ran").display());
        let response = farm.execute(Input::script(&script).outputs(&[path])).await;
        assert_eq!(code(&response), Code::InvalidArgument, "{path:?}");
        assert!(!farm.path("ran").exists(), "{path:?}");
    }
    farm.end().await;
}

#[tokio::test]
async fn the_whole_root_can_be_an_output() {
    let mut farm = Farm::new(Manners::default()).await;
    let input = Input::script("echo new > new")
        .file(&farm.storage, "in", b"old")
        .outputs(&[""]);
    let response = farm.execute(input).await;
    let result = response.result.unwrap();
    let tree = blob(&farm, result.output_directories[0].tree_digest.as_ref());
    let root = Tree::decode(tree).unwrap().root.unwrap();
    let names: Vec<&str> = root.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["in", "new"]);
    farm.end().await;
}

#[tokio::test]
async fn large_and_many_files_are_hashed_and_stored() {
    let mut farm = Farm::new(Manners::default()).await;
    let script = "mkdir d; i=0; while [ $i -lt 80 ]; do
        head -c 200000 /dev/zero > d/$i; echo $i >> d/$i; i=$((i+1)); done;
        head -c 3000000 /dev/zero > big";
    let input = Input::script(script).outputs(&["d", "big"]);
    let response = farm.execute(input).await;
    assert_eq!(code(&response), Code::Ok, "{response:?}");
    let result = response.result.unwrap();
    assert_eq!(
        result.output_files[0].digest,
        Some(digest(&vec![0; 3_000_000]).to_wire())
    );
    assert_eq!(
        blob(&farm, result.output_files[0].digest.as_ref()).len(),
        3_000_000
    );
    let tree = blob(&farm, result.output_directories[0].tree_digest.as_ref());
    let root = Tree::decode(tree).unwrap().root.unwrap();
    assert_eq!(root.files.len(), 80);
    for file in root.files {
        let bytes = blob(&farm, file.digest.as_ref());
        assert!(bytes.ends_with(format!("\0{}\n", file.name).as_bytes()));
    }
    farm.end().await;
}

#[tokio::test]
async fn a_tree_deeper_than_any_path_is_reported() {
    let mut farm = Farm::new(Manners::default()).await;
    let name = "n".repeat(200);
    let script = format!(
        "mkdir d; cd d; i=0; while [ $i -lt 60 ]; do mkdir {name}; cd -P {name} || exit 1;
         i=$((i+1)); done; echo deep > f"
    );
    let response = farm.execute(Input::script(&script).outputs(&["d"])).await;
    assert_eq!(code(&response), Code::Ok, "{response:?}");
    let result = response.result.unwrap();
    assert_eq!(result.exit_code, 0);
    let tree = blob(&farm, result.output_directories[0].tree_digest.as_ref());
    assert_eq!(Tree::decode(tree).unwrap().children.len(), 60);
    assert!(farm.storage.get(&digest(b"deep\n")).is_some());
    farm.end().await;
}

#[tokio::test]
async fn names_that_are_no_text_are_refused() {
    let mut farm = Farm::new(Manners::default()).await;
    let script = r#"mkdir d; touch "$(printf 'd/\377')""#;
    let response = farm.execute(Input::script(script).outputs(&["d"])).await;
    assert_eq!(code(&response), Code::InvalidArgument);
    assert!(response.status.unwrap().message.contains("UTF-8"));
    farm.end().await;
}

#[tokio::test]
#[allow(deprecated)]
async fn one_bad_output_costs_neither_the_log_nor_the_others() {
    let mut farm = Farm::new(Manners::default()).await;
    let script = r#"mkfifo fifo; mkdir d; echo spoilt > d/a; touch "$(printf 'd/\377')";
        echo good > good; echo log; mkdir $LOGS/deep; echo dump > $LOGS/deep/core"#;
    let paths = ["fifo", "d", "good"];
    let response = farm.execute(Input::script(script).outputs(&paths)).await;
    assert_eq!(code(&response), Code::InvalidArgument);
    // The first of the two is named.
    assert!(response.status.unwrap().message.contains("\"fifo\""));
    let result = response.result.unwrap();
    assert_eq!(result.stdout_digest, Some(digest(b"log\n").to_wire()));
    assert_eq!(result.output_files.len(), 1);
    assert_eq!(result.output_files[0].path, "good");
    assert!(result.output_directories.is_empty());
    for stored in ["good\n", "log\n", "dump\n"] {
        assert!(farm.storage.get(&digest(stored.as_bytes())).is_some());
    }
    assert!(response.server_logs.contains_key("deep/core"));
    // What nothing names is not stored.
    assert!(farm.storage.get(&digest(b"spoilt\n")).is_none());
    assert!(farm.storage.results.lock().unwrap().is_empty());

    let mut input = Input::script("mkdir f; echo good > g");
    input.command.output_files = vec!["f".into(), "g".into()];
    let response = farm.execute(input).await;
    assert_eq!(code(&response), Code::FailedPrecondition);
    assert_eq!(response.result.unwrap().output_files[0].path, "g");
    farm.end().await;
}

#[tokio::test]
async fn a_fifo_left_at_a_timeout_does_not_hide_the_log() {
    let mut farm = Farm::new(Manners::default()).await;
    let script = "mkfifo out; echo log; while :; do :; done";
    let mut input = Input::script(script).outputs(&["out"]);
    let timeout = std::time::Duration::from_millis(500);
    input.action.timeout = Some(proto::messages::duration(timeout));
    let response = farm.execute(input).await;
    assert_eq!(code(&response), Code::DeadlineExceeded, "{response:?}");
    let result = response.result.unwrap();
    assert_eq!(result.stdout_digest, Some(digest(b"log\n").to_wire()));
    assert!(farm.storage.get(&digest(b"log\n")).is_some());
    farm.end().await;
}
