//! Paths in Commands: outputs and the working directory.

use tests::tree::Tree;
use tonic::Code;

use crate::{EXECUTED, assert_refused, farm, good, leave};

#[test]
fn paths_that_leave_the_input_root_are_refused() {
    let farm = farm();
    let client = farm.client();
    for path in [
        "..",
        "../x",
        "a/../../x",
        "/etc/passwd",
        "/",
        "a\0b",
        "a/\0",
    ] {
        let outcome = client.run(&good().output(path));
        assert_refused(outcome, Code::InvalidArgument, &["output_paths"]);
        let outcome = client.run(&good().working_directory(path));
        assert_refused(outcome, Code::InvalidArgument, &["working_directory"]);
        #[allow(deprecated)]
        {
            let mut action = good();
            action.command.output_files = vec![path.into()];
            let outcome = client.run(&action);
            assert_refused(outcome, Code::InvalidArgument, &["output_files"]);
            let mut action = good();
            action.command.output_directories = vec![path.into()];
            let outcome = client.run(&action);
            assert_refused(outcome, Code::InvalidArgument, &["output_directories"]);
        }
    }
    // From further down the same climb stays inside, one more step does not.
    let tree = Tree::new().folder("a/b");
    let below = good().tree(&tree).working_directory("a/b");
    let _ = client
        .run(&below.clone().output("../../x"))
        .exited(EXECUTED);
    let outcome = client.run(&below.output("../../../x"));
    assert_refused(outcome, Code::InvalidArgument, &["output_paths"]);
    leave(farm);
}

#[test]
fn a_working_directory_that_is_none_is_named() {
    let farm = farm();
    let tree = Tree::new().file("file", "no folder").link("link", "/tmp");
    for path in ["file", "file/below", "link", "link/below"] {
        let outcome = farm
            .client()
            .run(&good().tree(&tree).working_directory(path));
        let (name, _) = path.split_once('/').unwrap_or((path, ""));
        assert_refused(outcome, Code::InvalidArgument, &[name]);
    }
    leave(farm);
}
