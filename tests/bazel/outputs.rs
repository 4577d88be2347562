//! What comes back of what actions made, and what only if it is asked for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use walkdir::WalkDir;

use crate::client::{Workspace, has_bazel, leave, setup};

/// The files that a client has of outputs, by their paths below `outputs`.
fn files(workspace: &Workspace, client: &str) -> Vec<String> {
    let folder = workspace.output(client, "outputs");
    let mut files: Vec<_> = WalkDir::new(&folder)
        .into_iter()
        .flatten()
        .filter(|entry| !entry.file_type().is_dir())
        .map(|entry| {
            entry
                .path()
                .strip_prefix(&folder)
                .expect("below")
                .to_path_buf()
        })
        .map(|path| path.display().to_string())
        .collect();
    files.sort();
    files
}

const LOAF: &str = "./deep/deeper/grain.txt program 24\n\
                    ./empty program 0\n\
                    ./name with blanks/run program 10\n";

#[test]
fn bazel_downloads_no_more_than_it_is_told_to() {
    if !has_bazel("bazel_downloads_no_more_than_it_is_told_to") {
        return;
    }
    let farm = setup().start();
    let workspace = Workspace::features(&farm);
    let minimal = [
        "build",
        "--remote_download_minimal",
        "//outputs:flour",
        "//outputs:loaf",
    ];
    let build = workspace.bazel("first", &minimal);
    build.assert(0, &["5 processes: 1 internal, 4 remote."]);
    farm.assert_executed(0, 4, "Bazel 4.2.3: four actions, downloading nothing");
    assert_eq!(files(&workspace, "first"), [""; 0]);

    // Inputs that the client itself does not hold are fetched by the worker.
    workspace.edit("outputs/BUILD", |text| {
        text.replace("tr a-z A-Z", "tr a-z b-za")
    });
    let build = workspace.bazel("first", &minimal);
    build.assert(0, &["3 remote cache hit, 1 internal, 1 remote."]);
    farm.assert_executed(
        4,
        1,
        "Bazel 4.2.3: one that has changed, downloading nothing",
    );
    assert_eq!(files(&workspace, "first"), [""; 0]);

    let mut toplevel = minimal;
    toplevel[1] = "--remote_download_toplevel";
    let build = workspace.bazel("second", &toplevel);
    build.assert(0, &["5 processes: 4 remote cache hit, 1 internal."]);
    farm.assert_executed(5, 0, "Bazel 4.2.3: downloading what was asked for");
    assert_eq!(files(&workspace, "second"), ["flour.txt", "loaf.txt"]);
    let flour = workspace.read("second", "outputs/flour.txt");
    assert_eq!(flour, "hsbjo 1\nhsbjo 2\nhsbjo 3\n");
    assert_eq!(workspace.read("second", "outputs/loaf.txt"), LOAF);
    leave(farm);
}

/// Checks the outputs of `//outputs:chaff` and `//outputs:links`.
fn assert_outputs(workspace: &Workspace, client: &str) {
    let read = |path: &str| workspace.read(client, &format!("outputs/{path}"));
    assert_eq!(
        read("chaff/deep/deeper/grain.txt"),
        "grain 1\ngrain 2\ngrain 3\n"
    );
    assert_eq!(read("chaff/name with blanks/run"), "#!/bin/sh\n");
    assert_eq!(read("chaff/empty"), "");
    let program = workspace.output(client, "outputs/chaff/name with blanks/run");
    let mode = fs::metadata(program)
        .expect("a program")
        .permissions()
        .mode();
    assert_eq!(mode & 0o111, 0o111);
    assert_eq!(read("links_target"), "straw\n");
    for (path, target) in [
        ("links_link", "links_target"),
        ("links_tree/to_file", "folder/file"),
        ("links_tree/to_folder", "folder"),
        // So Bazel writes `../folder/./file`.
        ("links_tree/folder/odd", "../folder/file"),
    ] {
        let link = workspace.output(client, &format!("outputs/{path}"));
        let link = fs::read_link(link).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(link, Path::new(target), "{path}");
    }
    assert_eq!(read("links_tree/to_folder/odd"), "hay\n");
}

#[test]
fn bazel_gets_trees_and_links_as_they_were_made() {
    if !has_bazel("bazel_gets_trees_and_links_as_they_were_made") {
        return;
    }
    let farm = setup().start();
    let workspace = Workspace::features(&farm);
    for (client, count) in [("first", 3), ("second", 0)] {
        let before = farm.executed();
        let words = ["build", "//outputs:chaff", "//outputs:links"];
        workspace.bazel(client, &words).assert(0, &[]);
        assert_outputs(&workspace, client);
        let built = format!("Bazel 4.2.3: a tree and links, {client} client");
        farm.assert_executed(before, count, &built);
    }

    let dangling = "--experimental_allow_unresolved_symlinks";
    let words = ["build", dangling, "//outputs:unresolved"];
    workspace.bazel("first", &words).assert(0, &[]);
    let link = fs::read_link(workspace.output("first", "outputs/unresolved"));
    assert_eq!(link.expect("a link"), Path::new("nowhere/at/all"));

    // In a tree Bazel does not want one, which it says of the link that came back.
    let build = workspace.bazel("first", &["build", dangling, "//outputs:dangling"]);
    build.assert(
        1,
        &["Failed to resolve relative path dangling inside TreeArtifact"],
    );
    let link = fs::read_link(workspace.output("first", "outputs/dangling/dangling"));
    assert_eq!(link.expect("a link"), Path::new("nowhere/at/all"));
    farm.assert_executed(3, 2, "Bazel 4.2.3: links to nowhere");
    leave(farm);
}
