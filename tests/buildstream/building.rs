//! What is built, and from what the second time.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tests::farm::{Farm, Setup};
use tests::seal::Seal;
use tests::skip::needs_root;
use tests::user::As;

use crate::client::{Project, has_buildstream};

/// The elements of `barn.bst` that run commands.
const BUILT: [&str; 7] = [
    "sheaves",
    "inventory",
    "census",
    "house",
    "guest",
    "tenant",
    "stranger",
];

pub fn setup(who: As) -> Setup {
    Setup::new(who).slots(4).arguments(&["--root", "input"])
}

pub fn farm(who: As) -> Farm {
    setup(who).start()
}

pub fn leave(farm: Farm) {
    farm.wait_until_idle();
    Seal::record(&farm.cache()).check();
    farm.stop();
}

/// Checks every kind of output that an element can have.
fn assert_sheaves(folder: &Path) {
    let share = folder.join("usr/share/harvest");
    let read = |name| fs::read_to_string(share.join(name)).expect("a file");
    assert_eq!(read("sheaves.txt"), "barley 3\noats 1\nrye 2\n");
    let link = |name| fs::read_link(share.join(name)).expect("a link");
    assert_eq!(link("first"), Path::new("sheaves.txt"));
    assert_eq!(link("dangling"), Path::new("../nowhere"));
    assert_eq!(link("absolute"), Path::new("/usr/bin/bind"));
    let barn = fs::read_dir(share.join("empty barn")).expect("an empty folder");
    assert_eq!(barn.count(), 0);
    let program = fs::metadata(folder.join("usr/bin/bind")).expect("a program");
    assert_eq!(program.permissions().mode() & 0o111, 0o111);
    let text = fs::metadata(share.join("sheaves.txt")).expect("a text");
    assert_eq!(text.permissions().mode() & 0o111, 0);
}

/// Checks what the first or second client has built.
fn assert_built(project: &Project, client: &str) {
    assert_sheaves(&project.checkout(client, "sheaves.bst"));
    for (element, file, expected) in [
        (
            "inventory.bst",
            "inventory.txt",
            "/barn/usr/bin/bind\n/barn/usr/share/harvest/sheaves.txt\n",
        ),
        ("census.bst", "census.txt", "3\n"),
        ("house.bst", "tmp.txt", "mark\nother\n"),
        ("guest.bst", "tmp.txt", "mark\nother\n"),
        ("tenant.bst", "ids.txt", "0:0\n"),
        ("stranger.bst", "ids.txt", "1234:0\n"),
    ] {
        let folder = project.checkout(client, element);
        let read = fs::read_to_string(folder.join(file)).expect("a file");
        assert_eq!(read, expected, "{element}");
    }
}

fn builds(name: &str, who: As) {
    if !has_buildstream(name) {
        return;
    }
    let farm = farm(who);
    let project = Project::copy(&farm).instance("meadow");
    let build = project.bst("first", &["build", "barn.bst"]);
    build.assert(0, &["Waiting for the remote build to complete"]);
    let count = BUILT.len() as u64;
    farm.assert_executed(0, count, "BuildStream 2.8.1: barn.bst");
    assert_built(&project, "first");

    // Another client has nothing but the project.
    let build = project.bst("second", &["build", "barn.bst"]);
    let build = build.assert(0, &[]);
    let known = "Action result found in action cache";
    let found = build.text.matches(known).count();
    assert_eq!(found, BUILT.len(), "{}", build.text);
    farm.assert_executed(count, 0, "BuildStream 2.8.1: barn.bst by a second client");
    assert_built(&project, "second");
    leave(farm);
}

#[test]
fn elements_are_built_and_another_client_finds_them_built() {
    let name = "elements_are_built_and_another_client_finds_them_built";
    builds(name, As::possible()[0]);
}

#[test]
fn elements_are_built_on_a_farm_of_a_plain_user() {
    let name = "elements_are_built_on_a_farm_of_a_plain_user";
    builds(name, As::PlainUser);
}

/// What is staged may be written to, and nobody else sees it.
fn writes(name: &str, who: As) {
    if !has_buildstream(name) {
        return;
    }
    let farm = farm(who);
    let project = Project::copy(&farm);
    let words = ["build", "renovation.bst", "census.bst"];
    project.bst("first", &words).assert(0, &[]);
    farm.assert_executed(0, 3, "BuildStream 2.8.1: renovation.bst and census.bst");
    let renovated = project.checkout("first", "renovation.bst");
    let read = |name| fs::read_to_string(renovated.join(name)).expect("a file");
    assert_eq!(read("sheaves.txt"), "barley 3\noats 1\nrye 2\nwheat 4\n");
    assert_eq!(read("first"), "barley 3\nOATS 1\nrye 2\nwheat 4\n");
    assert_sheaves(&project.checkout("first", "sheaves.bst"));
    let census = project.checkout("first", "census.bst").join("census.txt");
    assert_eq!(fs::read_to_string(census).expect("a file"), "3\n");

    // A workspace is built where its last build has left its files.
    let workspace = project.workspace("first", "sheaves.bst");
    project
        .bst("first", &["build", "sheaves.bst"])
        .assert(0, &[]);
    let field = workspace.join("field.txt");
    let grain = fs::read_to_string(&field).expect("a source") + "wheat 4\n";
    fs::write(&field, grain).expect("a changed source");
    project
        .bst("first", &["build", "sheaves.bst"])
        .assert(0, &[]);
    let sheaves = project.checkout("first", "sheaves.bst");
    let sheaves = fs::read_to_string(sheaves.join("usr/share/harvest/sheaves.txt"));
    assert_eq!(
        sheaves.expect("a file"),
        "barley 3\noats 1\nrye 2\nwheat 4\n"
    );
    leave(farm);
}

#[test]
fn commands_write_to_what_is_staged_and_nobody_else_sees_it() {
    let name = "commands_write_to_what_is_staged_and_nobody_else_sees_it";
    // Elsewhere than over layers, who needs root, it can only be replaced.
    if needs_root(name) {
        writes(name, As::Root);
    }
}

#[test]
fn commands_write_to_what_is_staged_on_a_farm_of_a_plain_user() {
    let name = "commands_write_to_what_is_staged_on_a_farm_of_a_plain_user";
    writes(name, As::PlainUser);
}

#[test]
fn elements_are_built_by_clients_that_keep_everything_in_the_farm() {
    let name = "elements_are_built_by_clients_that_keep_everything_in_the_farm";
    if !has_buildstream(name) {
        return;
    }
    let farm = farm(As::possible()[0]);
    let project = Project::copy(&farm).all_storage();
    for (client, count) in [("first", BUILT.len() as u64), ("second", 0)] {
        let before = farm.executed();
        project.bst(client, &["build", "barn.bst"]).assert(0, &[]);
        let built = format!("BuildStream 2.8.1: barn.bst, all storage remote, {client} client");
        farm.assert_executed(before, count, &built);
        assert_built(&project, client);
    }
    leave(farm);
}
