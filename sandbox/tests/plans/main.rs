//! Plans, and refusals, for each kind of host: what a runner would do there, as
//! `bb_runner --print-plan` prints it, compared with the texts beside this file.
//!
//! No privilege is needed: what the host has is made up. With `UPDATE_PLANS=1` the
//! texts are written anew.

// The lint tells tests by their attribute, which helpers do not have.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use sandbox::{
    Container, Feature, Finding, HostIds, Limit, Need, Plan, Policy, Probe, Protection, Root,
    Subordinate, Surroundings,
};

/// A host of Debian 12 that lacks these, as seen by this user.
fn host(uid: u32, lacking: &[Feature], surroundings: Surroundings) -> Probe {
    let remedy = |feature: Feature| match feature {
        Feature::OwnProc => surroundings.allow_proc(),
        Feature::LandlockScopes => "use Linux 6.12 or newer".to_owned(),
        Feature::Landlock => "use Linux 5.13 or newer".to_owned(),
        Feature::SubordinateIds => "install the package uidmap".to_owned(),
        Feature::RootCapabilities => "start as root".to_owned(),
        _ => surroundings.allow_namespaces(),
    };
    let findings = Feature::ALL
        .into_iter()
        .map(|feature| {
            let available = !lacking.contains(&feature);
            Finding {
                feature,
                available,
                why: (if available {
                    "tried, works"
                } else {
                    "tried: Operation not permitted"
                })
                .to_owned(),
                remedy: if available {
                    String::new()
                } else {
                    remedy(feature)
                },
            }
        })
        .collect();
    Probe {
        kernel: "6.1.0".to_owned(),
        uid,
        landlock_abi: 2,
        findings,
        userland: vec![
            ("/usr".into(), false),
            ("/bin".into(), true),
            ("/lib".into(), true),
        ],
        subordinate: Vec::new(),
        surroundings,
    }
}

const SLOTS: HostIds = HostIds::Range {
    start: 100_000,
    count: 64,
};

/// What Docker's own profile denies, and the mounts over its `/proc`.
const IN_A_CONTAINER: [Feature; 7] = [
    Feature::UserNamespace,
    Feature::MountNamespace,
    Feature::PidNamespace,
    Feature::IpcNamespace,
    Feature::UtsNamespace,
    Feature::NetworkNamespace,
    Feature::MountCalls,
];

fn inside(container: Container) -> Surroundings {
    Surroundings {
        container: Some(container),
        filtered: true,
        apparmor: Some("docker-default".to_owned()),
        forbidden_by: None,
    }
}

fn check(name: &str, policy: &Policy, probe: &Probe) {
    let text = match Plan::new(policy, probe) {
        Ok(plan) => plan.to_string(),
        Err(refusal) => format!("{refusal}\n"),
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let path = folder.join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_PLANS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{} differs", path.display());
}

#[test]
fn root_has_a_uid_for_each_slot() {
    let probe = host(0, &[Feature::LandlockScopes], Surroundings::default());
    check("root", &Policy::new(Root::Host, SLOTS), &probe);
    check("root-input", &Policy::new(Root::Input, SLOTS), &probe);
}

#[test]
fn a_user_with_subordinate_ids_has_a_uid_for_each_slot() {
    let lacking = [Feature::RootCapabilities, Feature::LandlockScopes];
    let mut probe = host(1000, &lacking, Surroundings::default());
    let policy = Policy::new(Root::Host, SLOTS);
    probe.subordinate = vec![Subordinate {
        start: 100_000,
        count: 65_536,
    }];
    check("subordinate", &policy, &probe);
    probe.subordinate[0].start = 200_000;
    check("subordinate-refused", &policy, &probe);
}

/// Whether the worker is the same user makes no difference to the runner: the worker
/// finds out whether its files can be altered.
#[test]
fn a_user_without_them_runs_commands_at_its_own() {
    let lacking = [
        Feature::RootCapabilities,
        Feature::SubordinateIds,
        Feature::LandlockScopes,
    ];
    let probe = host(1000, &lacking, Surroundings::default());
    check(
        "same-user",
        &Policy::new(Root::Host, HostIds::SameUser),
        &probe,
    );
    check(
        "same-user-range-refused",
        &Policy::new(Root::Host, SLOTS),
        &probe,
    );
}

#[test]
fn containers_are_told_what_is_denied_and_what_would_allow_it() {
    let policy = Policy::new(Root::Host, HostIds::SameUser);
    let user = [Feature::RootCapabilities, Feature::SubordinateIds];
    for (name, container) in [
        ("docker", Container::Docker),
        ("podman", Container::Podman),
        ("kubernetes", Container::Kubernetes),
    ] {
        let lacking = [&IN_A_CONTAINER[..], &user].concat();
        let probe = host(65_534, &lacking, inside(container));
        check(&format!("{name}-refused"), &policy, &probe);
        // The profile is applied, and /proc still masked.
        let lacking = [&[Feature::OwnProc][..], &user].concat();
        let probe = host(65_534, &lacking, inside(container));
        check(&format!("{name}-proc-refused"), &policy, &probe);
        let probe = host(65_534, &user, inside(container));
        check(&format!("{name}-allowed"), &policy, &probe);
    }
}

#[test]
fn a_setting_of_the_kernel_is_named() {
    let surroundings = Surroundings {
        forbidden_by: Some("kernel.unprivileged_userns_clone=1"),
        ..Surroundings::default()
    };
    let lacking = [&IN_A_CONTAINER[..], &[Feature::RootCapabilities]].concat();
    let probe = host(1000, &lacking, surroundings);
    let policy = Policy::new(Root::Host, HostIds::SameUser);
    check("sysctl-refused", &policy, &probe);
}

#[test]
fn what_a_configured_policy_gives_up_is_left_out_and_told() {
    let mut policy = Policy::new(Root::Host, SLOTS);
    policy.set_need(Protection::NetworkNamespace, Need::Off);
    policy.set_need(Protection::Seccomp, Need::BestEffort);
    policy.read_only_binds.push("/opt/tools".into());
    policy.read_write_binds.push("/srv/ccache".into());
    policy.symlink_temporary_directories.push("/scratch".into());
    policy.limits[Limit::Memory] = Some(4 << 30);
    policy.limits[Limit::Cpu] = Some(2000);
    let lacking = [Feature::Seccomp];
    let probe = host(0, &lacking, Surroundings::default());
    check("reduced", &policy, &probe);
    // On the host's network scopes are not to be done without.
    let lacking = [Feature::Seccomp, Feature::LandlockScopes];
    let probe = host(0, &lacking, Surroundings::default());
    check("reduced-refused", &policy, &probe);
    // In a container whose runtime lets nobody make namespaces.
    let mut policy = Policy::new(Root::Host, HostIds::SameUser);
    for protection in Protection::ALL {
        if protection.is_namespace() {
            policy.set_need(protection, Need::Off);
        }
    }
    let lacking = [
        Feature::UserNamespace,
        Feature::MountNamespace,
        Feature::PidNamespace,
        Feature::MountCalls,
        Feature::OwnProc,
    ];
    let mut probe = host(65534, &lacking, Surroundings::default());
    probe.landlock_abi = 7;
    check("without-namespaces", &policy, &probe);
}
