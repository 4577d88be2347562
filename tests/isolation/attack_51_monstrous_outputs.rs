//! Attack 51: outputs that take for ever: files of a tebibyte that hold nothing,
//! folders thousands deep, folders that nobody may read. There is an end to it, by a
//! result or by an error that names the limit, and all of it can be removed.

use tests::action::Action;
use tests::user::As;
use tonic::Code;

use crate::arena::{Arena, on_both_farms};

on_both_farms!(attack);

fn attack(who: As) {
    let arena = Arena::new(who);
    let client = arena.farm.client();

    let sparse = Action::shell("truncate -s 1T out")
        .output("out")
        .do_not_cache();
    let outcome = client.run(&sparse);
    assert_ne!(outcome.status.code(), Code::Ok, "{outcome:#?}");
    assert!(outcome.result.output_files.is_empty(), "{outcome:#?}");

    let deep = "perl -e 'for (1..3000) { mkdir q(d) or die; chdir q(d) or die }'";
    let deep = Action::shell(deep).output("d").do_not_cache();
    let outcome = client.run(&deep);
    if outcome.status.code() == Code::Ok {
        assert_eq!(outcome.result.output_directories.len(), 1, "{outcome:#?}");
    }

    let closed = "mkdir -p out/in; echo text > out/in/file; ln out/in/file out/again;
        chmod 0 out/in/file out/in out";
    let closed = Action::shell(closed).output("out").do_not_cache();
    let _ = arena.run(&closed);

    // Nothing of it stays, and the farm works on.
    assert_eq!(arena.run(&Action::shell("echo on")).stdout, "on\n");
    arena.leave();
}
