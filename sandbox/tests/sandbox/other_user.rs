//! A runner that is an ordinary user other than the worker's: commands run as the
//! runner's own user, which owns nothing of the worker's.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use sandbox::End;

use crate::farm::{Farm, Mode, shell};

#[test]
fn what_another_user_caches_cannot_be_altered() {
    let name = "what_another_user_caches_cannot_be_altered";
    if Mode::root(name).is_none() {
        return;
    }
    let mut farm = Farm::start(Mode::Same(Some(64_321)), &[]);
    let cache = tempfile::tempdir().unwrap();
    let cached = cache.path().join("cached");
    std::fs::write(&cached, "cached").unwrap();
    std::fs::set_permissions(&cached, std::fs::Permissions::from_mode(0o444)).unwrap();
    std::os::unix::fs::chown(&cached, Some(64_400), Some(64_400)).unwrap();
    farm.prepare(|root| {
        std::fs::hard_link(&cached, root.join("input")).unwrap();
        // As a worker makes it for a runner of another user.
        std::os::unix::fs::chown(root, Some(64_400), Some(64_400)).unwrap();
    });
    let before = cached.metadata().unwrap();
    for attack in [
        "chmod u+w input",
        "echo x > input",
        "touch -d 2001-01-01 input",
        "ln input linked",
        "truncate -s 0 input",
    ] {
        let end = farm.end(shell(attack));
        assert!(matches!(end, End::Exited(1 | 2)), "{attack}: {end:?}");
    }
    // Its own it may do with as it likes.
    assert_eq!(farm.end(shell("echo x > made && rm made")), End::Exited(0));
    let after = cached.metadata().unwrap();
    assert_eq!(std::fs::read(&cached).unwrap(), b"cached");
    let of = |m: &std::fs::Metadata| (m.mode(), m.uid(), m.mtime_nsec(), m.ctime_nsec(), m.nlink());
    assert_eq!(of(&after), of(&before));
    farm.stop();
}
