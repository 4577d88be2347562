//! Attack 48: outputs are links to files of the host and of other actions, or lie
//! behind such links. A link is an output as a link; what it leads to is never read.

use proto::wire::rev2;
use tests::action::Action;
use tests::user::As;

use crate::arena::{Arena, on_both_farms};

on_both_farms!(attack);

fn attack(who: As) {
    let arena = Arena::new(who);
    // The farm's folder stands for the host: the worker can read it.
    let secret = tests::secret();
    let file = arena.farm.directory().join("worker/cache/secret");
    std::fs::write(&file, &secret).expect("a file of the worker");
    let file = file.to_str().expect("UTF-8");
    let folder = arena.farm.directory().join("worker/cache");
    let folder = folder.to_str().expect("UTF-8");
    let script = format!(
        "ln -s {file} link; ln -s {folder} folder; ln -s {folder} gate; mkdir out
         ln -s {file} out/link; ln -s {folder} out/folder; ln -s ../link out/twice
         ln -s /proc/self/cwd out/process"
    );
    let mut action = Action::shell(&script).do_not_cache();
    for output in ["link", "folder", "gate/secret", "out"] {
        action = action.output(output);
    }
    let outcome = arena.run(&action);
    let result = &outcome.result;
    assert!(result.output_files.is_empty(), "{result:#?}");
    let links = result
        .output_symlinks
        .iter()
        .map(|link| (&*link.path, &*link.target));
    assert_eq!(
        links.collect::<Vec<_>>(),
        [("folder", folder), ("link", file)]
    );
    let [out] = &result.output_directories[..] else {
        panic!("{result:#?}");
    };
    assert_eq!(out.path, "out");
    let tree = arena
        .farm
        .client()
        .fetch(out.tree_digest.as_ref().expect("a tree"));
    let tree: rev2::Tree = prost::Message::decode(tree).expect("a Tree");
    let root = tree.root.expect("a root");
    assert!(
        root.files.is_empty() && root.directories.is_empty(),
        "{root:#?}"
    );
    assert_eq!(root.symlinks.len(), 4);
    std::fs::remove_file(file).expect("the file is there");
    arena.leave();
}
