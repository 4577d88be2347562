//! The same probes under bubblewrap, with every namespace it has, no capability, and
//! the host's userland read-only: nothing that it stops passes here.

use std::fs;

use serde_json::json;
use tests::user::As;

use crate::attack::Ground;
use crate::attacks;
use crate::layers::run_as;
use crate::lone_runner::Place;

#[test]
fn nothing_that_bubblewrap_stops_passes() {
    let test = "comparison::nothing_that_bubblewrap_stops_passes";
    if !tests::skip::has(test, &["/usr/bin/bwrap"]) {
        return;
    }
    // At the same uid: bubblewrap has no other.
    let who = As::PlainUser;
    let place = Place::new(who);
    let mut ground = Ground::new(who);
    let mut runner = place.start(&[], &json!({})).expect("the runner starts");
    let mut worse = Vec::new();
    let (mut stopped, mut more) = (0, 0);
    for attack in attacks::ALL {
        let words = ground.words(attack);
        let (_, ours) = runner.attack(&words).expect("the probe is run");
        let _ = (place.is_sealed(), ground.restore(attack));
        let action = place.make("action").join("root");
        let words = ground.words(attack);
        let theirs = run_as(tests::user::plain_uid(), &around(&action, &words), &action);
        let _ = (place.is_sealed(), ground.restore(attack));
        fs::remove_dir_all(place.path().join("build/action")).expect("it can be removed");
        assert!(!theirs.is_empty(), "attack {} tried nothing", attack.number);
        for (name, theirs) in &theirs {
            let passes = |result: &str| result == "OK" && attack.is_wrong(name);
            // A number that names another process in each.
            let Some(ours) = ours.get(name) else {
                continue;
            };
            stopped += usize::from(!passes(theirs));
            more += usize::from(passes(theirs) && !passes(ours));
            if passes(ours) && !passes(theirs) {
                worse.push(format!("attack {}: {name}: {theirs}", attack.number));
            }
        }
    }
    assert!(
        worse.is_empty(),
        "stopped by bubblewrap only:\n{}",
        worse.join("\n")
    );
    // Else nothing was compared.
    assert!(
        stopped > 200 && more > 20,
        "{stopped} stopped by both, {more} here only"
    );
}

fn around(action: &std::path::Path, words: &[String]) -> Vec<String> {
    let folder = action.to_str().expect("UTF-8");
    let text = format!(
        "timeout --signal=KILL 5 bwrap --unshare-all --die-with-parent --new-session --cap-drop ALL --hostname localhost \
         --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib \
         --symlink usr/lib64 /lib64 --dev /dev --proc /proc --tmpfs /tmp --tmpfs /var/tmp \
         --bind {folder} /build/root --chdir /build/root ./probe"
    );
    let around = text.split_whitespace().map(str::to_owned);
    around.chain(words.iter().cloned()).collect()
}
