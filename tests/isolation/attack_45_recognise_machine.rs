//! Attack 45: an action tells one machine from another by what it can read: names,
//! ids, boot, users. What it has of that is the same everywhere; its environment is
//! the Command's, exactly.

use tests::action::Action;
use tests::farm::Setup;
use tests::tree::Tree;
use tests::user::As;

use crate::arena::{Arena, on_both_farms};
use crate::attack::Attack;

/// As it is made under every set of layers.
pub const ATTACK: Attack = Attack {
    number: 45,
    what: "host name, machine id, boot id, kernel command line, users",
    words: &["attack-45", "{host}"],
    rights: &[],
    refusals: &["ENODATA"],
};

const WHAT_IS_SEEN: &str = r#"/etc/passwd: "root:x:0:0:root:/tmp:/bin/sh\nbuild:x:1000:1000:build:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n""#;

on_both_farms!(recognise);

fn recognise(who: As) {
    ATTACK.refused(who);
    let secret = tests::secret();
    let arena = Arena::of(who, Setup::new(who).environment("TOKEN", &secret));
    let tree = Tree::new().executable("probe", arena.probe());
    let action = Action::new(["./probe", "describe"]).tree(&tree);
    let action = action.environment("ONLY", "this").do_not_cache();
    let seen = arena.run(&action).stdout;
    let lines: Vec<_> = seen.lines().collect();
    assert!(lines.contains(&WHAT_IS_SEEN), "{seen}");
    for line in [
        r#"/etc/machine-id: "6861796c6f6674000000000000000001\n""#,
        r#"/proc/sys/kernel/hostname: "localhost\n""#,
        r#"/proc/sys/kernel/domainname: "(none)\n""#,
        r#"/proc/cmdline: """#,
        r#"/proc/sys/kernel/random/boot_id: "6861796c-6f66-4740-8000-000000000001\n""#,
        "ONLY=this",
        r#"Ok("/build/root")"#,
        "1000 1000",
    ] {
        assert!(lines.contains(&line), "{line} is not in\n{seen}");
    }
    let variables = lines
        .iter()
        .filter(|line| !line.starts_with('/') && line.contains('='));
    assert_eq!(variables.collect::<Vec<_>>(), [&"ONLY=this"], "{seen}");
    assert!(!seen.contains(&secret), "{seen}");
    arena.leave();
}
