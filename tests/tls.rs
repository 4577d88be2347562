//! A whole farm over TLS: who is let in, and certificates that are exchanged while it
//! runs. The client is `hayloft run`: Debian's Bazel has no TLS, for its Netty finds no
//! ALPN in Debian's Java.

use std::process::Output;

use tests::tls_farm::TlsFarm;
use tests::wait::wait_for;

/// Runs a command by `hayloft run`: what it printed, or what was wrong.
fn run(farm: &TlsFarm, authority: &str, name: &str) -> Result<String, String> {
    let mut client = farm.client(authority, name, "echo by TLS; test -d /build");
    let Output {
        status,
        stdout,
        stderr,
    } = client.output().expect("hayloft runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    if status.success() {
        Ok(text(stdout))
    } else {
        Err(text(stderr))
    }
}

fn succeeds_at_last(what: &str, farm: &TlsFarm, authority: &str, name: &str) {
    let printed = wait_for(what, || run(farm, authority, name).ok());
    assert_eq!(printed, "by TLS\n");
}

#[test]
fn a_farm_over_tls_runs_what_it_is_asked_by_those_it_knows() {
    let farm = TlsFarm::start();
    succeeds_at_last("the farm to work", &farm, "farm", "ci");
    // Of the right authority, but none of those who may execute.
    let refused = run(&farm, "farm", "guest").unwrap_err();
    assert!(refused.contains("may not execute"), "{refused}");
    // Of another authority; and one that does not know the farm.
    let stranger = farm.authority("stranger");
    farm.certify(&stranger, "forged");
    let refused = run(&farm, "farm", "forged").unwrap_err();
    assert!(!refused.contains("may not"), "{refused}");
    let refused = run(&farm, "stranger", "ci").unwrap_err();
    assert!(refused.contains("certificate"), "{refused}");
}

#[test]
fn certificates_are_exchanged_while_a_farm_runs() {
    let mut farm = TlsFarm::start();
    succeeds_at_last("the farm to work", &farm, "farm", "ci");
    let new = farm.authority("new");
    // One after the other, as it has to be: whom to believe, who one is, and whom not
    // to believe any more.
    let both = ["farm", "new"].map(|name| {
        let path = farm.path(&format!("{name}.pem"));
        std::fs::read_to_string(path).expect("an authority")
    });
    std::fs::write(farm.path("both.pem"), both.concat()).expect("a file");
    farm.believe("both");
    for name in ["storage", "scheduler", "worker"] {
        farm.certify(&new, name);
    }
    std::fs::copy(farm.path("ci.pem"), farm.path("old-ci.pem")).expect("a copy");
    std::fs::copy(farm.path("ci.key"), farm.path("old-ci.key")).expect("a copy");
    farm.certify(&new, "ci");
    succeeds_at_last("a client of the new authority", &farm, "new", "ci");
    farm.believe("new");
    wait_for("the old certificates to be refused", || {
        run(&farm, "new", "old-ci").err()
    });
    // Whoever has to connect again does so with what there is now.
    for program in ["scheduler", "storage"] {
        farm.restart(program);
        succeeds_at_last("the farm to work again", &farm, "new", "ci");
    }
}
