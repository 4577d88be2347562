use super::*;
use crate::probe::Finding;

const RANGE: HostIds = HostIds::Range {
    start: 100_000,
    count: 8,
};

/// A host that lacks these.
fn host(lacking: &[Feature]) -> Probe {
    Probe {
        kernel: "6.1.0".to_owned(),
        uid: 0,
        landlock_abi: 7,
        findings: Feature::ALL
            .into_iter()
            .map(|feature| Finding {
                feature,
                available: !lacking.contains(&feature),
                why: format!("{feature:?} tried"),
                remedy: format!("get {feature:?}"),
            })
            .collect(),
        userland: vec![("/usr".into(), false), ("/bin".into(), true)],
        subordinate: Vec::new(),
        surroundings: crate::Surroundings::default(),
    }
}

fn position(steps: &[Step], wanted: impl Fn(&Step) -> bool) -> usize {
    steps.iter().position(wanted).unwrap()
}

#[test]
fn everything_holds_on_a_host_that_has_it() {
    let policy = Policy::new(Root::Host, RANGE);
    let plan = Plan::new(&policy, &host(&[])).unwrap();
    for protection in Protection::ALL {
        assert!(plan.holds(protection), "{protection}");
    }
    let own_namespace = |s: &Step| matches!(s, Step::LauncherUserNamespace { .. });
    assert!(!plan.start.iter().any(own_namespace));
    assert!(plan.start.contains(&Step::BindReadOnly("/usr".into())));
    assert!(plan.start.contains(&Step::CopySymlink("/bin".into())));
}

#[test]
fn each_missing_requirement_is_refused_by_name() {
    for (feature, protection) in [
        (Feature::UserNamespace, Protection::UserNamespace),
        (Feature::MountNamespace, Protection::MountNamespace),
        (Feature::PidNamespace, Protection::PidNamespace),
        (Feature::IpcNamespace, Protection::IpcNamespace),
        (Feature::UtsNamespace, Protection::UtsNamespace),
        (Feature::NetworkNamespace, Protection::NetworkNamespace),
        (Feature::Seccomp, Protection::Seccomp),
        (Feature::Landlock, Protection::LandlockFiles),
        (Feature::ProtectedHardlinks, Protection::ProtectedHardlinks),
        (Feature::RootCapabilities, Protection::OwnUid),
    ] {
        let policy = Policy::new(Root::Host, RANGE);
        let refusal = Plan::new(&policy, &host(&[feature])).unwrap_err();
        assert_eq!(
            refusal,
            Refusal::Missing {
                protection,
                why: format!("{feature:?} tried"),
                remedy: format!("get {feature:?}"),
            }
        );
        let text = refusal.to_string();
        assert!(text.contains(protection.name()), "{text}");
        assert!(text.contains("get "), "{text}");
    }
}

#[test]
fn what_no_sandbox_can_do_without_is_refused() {
    for feature in [Feature::MountCalls, Feature::OwnProc] {
        let policy = Policy::new(Root::Host, RANGE);
        let refusal = Plan::new(&policy, &host(&[feature])).unwrap_err();
        assert!(matches!(refusal, Refusal::Host { feature: f, .. } if f == feature));
    }
}

#[test]
fn a_best_effort_is_left_out_and_told() {
    let mut policy = Policy::new(Root::Host, RANGE);
    policy.set_need(Protection::Seccomp, Need::BestEffort);
    let plan = Plan::new(&policy, &host(&[Feature::Seccomp, Feature::LandlockScopes])).unwrap();
    assert!(!plan.holds(Protection::Seccomp));
    assert!(!plan.holds(Protection::LandlockScopes));
    assert!(plan.holds(Protection::LandlockFiles));
    assert!(!plan.command.contains(&Step::EnterSeccomp));
    let told = plan
        .protections
        .iter()
        .find(|held| held.protection == Protection::Seccomp)
        .unwrap();
    assert_eq!(told.why, "Seccomp tried");
    assert_eq!(told.remedy, "get Seccomp");
}

#[test]
fn switching_off_leaves_the_step_out() {
    let mut policy = Policy::new(Root::Host, RANGE);
    policy.set_need(Protection::NetworkNamespace, Need::Off);
    policy.set_need(Protection::UtsNamespace, Need::Off);
    let plan = Plan::new(&policy, &host(&[])).unwrap();
    assert!(!plan.prepare.contains(&Step::Loopback));
    assert!(plan.prepare.contains(&Step::Namespaces {
        cgroup: true,
        ipc: true,
        uts: false,
        network: false
    }));
    assert!(!plan.holds(Protection::NetworkNamespace));
    // On a shared network the scopes are what separates abstract sockets.
    let refusal = Plan::new(&policy, &host(&[Feature::LandlockScopes])).unwrap_err();
    assert!(matches!(
        refusal,
        Refusal::Missing {
            protection: Protection::LandlockScopes,
            ..
        }
    ));
}

#[test]
fn scopes_are_required_whenever_the_network_is_shared() {
    let no_network = [Feature::NetworkNamespace, Feature::LandlockScopes];
    let of = |lacking: &[Feature], scopes: Option<Need>| {
        let mut policy = Policy::new(Root::Host, RANGE);
        policy.set_need(Protection::NetworkNamespace, Need::BestEffort);
        if let Some(need) = scopes {
            policy.set_need(Protection::LandlockScopes, need);
        }
        Plan::new(&policy, &host(lacking))
    };
    // The host cannot separate the network, which was a best effort.
    for scopes in [None, Some(Need::BestEffort), Some(Need::Required)] {
        assert!(matches!(
            of(&no_network, scopes).unwrap_err(),
            Refusal::Missing {
                protection: Protection::LandlockScopes,
                ..
            }
        ));
    }
    assert!(of(&no_network, Some(Need::Off)).is_ok());
    let plan = of(&[Feature::NetworkNamespace], None).unwrap();
    assert!(plan.holds(Protection::LandlockScopes));
    // It can: then scopes are a best effort.
    assert!(of(&[Feature::LandlockScopes], None).is_ok());
}

#[test]
fn senseless_policies_are_refused() {
    let plan = |change: &dyn Fn(&mut Policy)| {
        let mut policy = Policy::new(Root::Host, RANGE);
        change(&mut policy);
        Plan::new(&policy, &host(&[])).unwrap_err()
    };
    assert_eq!(
        plan(&|p| p.set_need(Protection::PidNamespace, Need::Off)),
        Refusal::Depends {
            protection: Protection::UserNamespace,
            needs: Protection::PidNamespace
        }
    );
    assert_eq!(
        plan(&|p| p.set_need(Protection::NoNewPrivileges, Need::Off)),
        Refusal::Depends {
            protection: Protection::Seccomp,
            needs: Protection::NoNewPrivileges
        }
    );
    for range in [(0, 4), (5, 0), (u32::MAX - 2, 2), (u32::MAX, 2)] {
        let (start, count) = range;
        let refusal = plan(&|p| p.host_ids = HostIds::Range { start, count });
        assert!(matches!(refusal, Refusal::Policy(_)), "{range:?}");
    }
    for bind in ["opt", "/", "/opt/../etc", "/etc", "/tmp/x", "/proc/sys"] {
        let refusal = plan(&|p| p.read_only_binds.push(bind.into()));
        assert!(matches!(refusal, Refusal::Policy(_)), "{bind}");
        let refusal = plan(&|p| p.read_write_binds.push(bind.into()));
        assert!(matches!(refusal, Refusal::Policy(_)), "{bind}");
    }
    assert!(matches!(plan(&|p| p.hostname.clear()), Refusal::Policy(_)));
    // To the kernel both would be no limit at all.
    assert!(matches!(
        plan(&|p| p.limits[Limit::Shm] = None),
        Refusal::Policy(_)
    ));
    assert!(matches!(
        plan(&|p| p.limits[Limit::Tmpfs] = Some(0)),
        Refusal::Policy(_)
    ));
}

#[test]
fn the_same_user_has_no_uid_of_its_own() {
    let policy = Policy::new(Root::Host, HostIds::SameUser);
    let probe = host(&[Feature::RootCapabilities, Feature::ProtectedHardlinks]);
    let plan = Plan::new(&policy, &probe).unwrap();
    assert!(!plan.holds(Protection::OwnUid));
    let own = Step::LauncherUserNamespace { subordinate: None };
    assert_eq!(plan.start[0], own);
    let mut strict = policy;
    strict.set_need(Protection::OwnUid, Need::Required);
    assert!(matches!(
        Plan::new(&strict, &host(&[])).unwrap_err(),
        Refusal::Missing {
            protection: Protection::OwnUid,
            ..
        }
    ));
}

#[test]
fn the_order_is_the_one_that_the_kernel_allows() {
    for root in [Root::Host, Root::Input] {
        let plan = Plan::new(&Policy::new(root, RANGE), &host(&[])).unwrap();
        let ids = position(&plan.prepare, |s| matches!(s, Step::TakeIds(_)));
        // Changing ids clears the death signal.
        assert!(ids < position(&plan.prepare, |s| *s == Step::DieWithLauncher));
        let command = &plan.command;
        let landlock = position(command, |s| *s == Step::EnterLandlock);
        let seccomp = position(command, |s| *s == Step::EnterSeccomp);
        let renounced = position(command, |s| *s == Step::NoNewPrivileges);
        let dropped = position(command, |s| *s == Step::DropCapabilities);
        assert!(dropped < renounced && renounced < landlock && landlock < seccomp);
        assert_eq!(seccomp + 1, position(command, |s| *s == Step::Execute));
        // The action may choose a link through /proc as its directory.
        let closed = position(command, |s| *s == Step::Descriptors);
        let directory = position(command, |s| *s == Step::WorkingDirectory);
        assert!(landlock < closed && closed < directory && directory < seccomp);
        assert_eq!(command.last(), Some(&Step::Execute));
        // Everything is mounted before the rules name what is in the new root.
        let mounts = plan.prepare.iter().chain(&plan.request).cloned();
        let mounts: Vec<_> = mounts.collect();
        let pivot = position(&mounts, |s| *s == Step::PivotRoot);
        let rules = position(&mounts, |s| matches!(s, Step::LandlockRules { .. }));
        assert!(pivot < rules);
    }
}

#[test]
fn every_step_and_protection_prints_as_one_line() {
    let plan = Plan::new(&Policy::new(Root::Host, RANGE), &host(&[])).unwrap();
    let text = plan.to_string();
    let steps: usize = Phase::ALL
        .iter()
        .map(|phase| plan.steps(*phase).len())
        .sum();
    let lines = text.lines().filter(|line| line.starts_with("  "));
    assert_eq!(lines.count(), steps + Protection::ALL.len());
    for protection in Protection::ALL {
        // This one is the host's alone.
        let given = text.contains(&format!("[{}", protection.name()))
            || text.contains(&format!(", {}", protection.name()));
        let of_host = protection == Protection::ProtectedHardlinks;
        assert_eq!(given, !of_host, "{protection}");
    }
}

/// A policy without any namespace, changed in this way, of a user on a host that allows
/// none.
fn without_namespaces(change: impl Fn(&mut Policy)) -> Result<Plan, Refusal> {
    let mut policy = Policy::new(Root::Host, HostIds::SameUser);
    for protection in Protection::ALL {
        if protection.is_namespace() {
            policy.set_need(protection, Need::Off);
        }
    }
    change(&mut policy);
    let mut probe = host(&[
        Feature::UserNamespace,
        Feature::MountNamespace,
        Feature::MountCalls,
        Feature::OwnProc,
    ]);
    probe.uid = 1000;
    Plan::new(&policy, &probe)
}

#[test]
fn without_namespaces_landlock_and_the_filter_are_left() {
    let plan = without_namespaces(|_| ()).unwrap();
    assert!(!plan.namespaces);
    for protection in [
        Protection::LandlockFiles,
        Protection::LandlockScopes,
        Protection::Seccomp,
        Protection::NoNewPrivileges,
    ] {
        assert!(plan.holds(protection), "{protection}");
    }
    assert!(plan.start.is_empty() && plan.request.is_empty());
    let place = position(&plan.command, |s| *s == Step::EnterInputRoot);
    assert!(place < position(&plan.command, |s| *s == Step::Descriptors));
}

#[test]
fn without_namespaces_nothing_that_keeps_commands_apart_can_be_missing() {
    let refused = |change: &dyn Fn(&mut Policy)| without_namespaces(change).unwrap_err();
    for protection in Protection::ALL.into_iter().filter(|p| p.is_namespace()) {
        let refusal = refused(&|p| p.set_need(protection, Need::Required));
        assert!(matches!(refusal, Refusal::Depends { .. }), "{protection}");
    }
    let changes: [&dyn Fn(&mut Policy); 4] = [
        &|p| p.root = Root::Input,
        &|p| p.host_ids = RANGE,
        &|p| p.set_need(Protection::LandlockFiles, Need::BestEffort),
        &|p| p.symlink_temporary_directories = vec!["/scratch".into()],
    ];
    for change in changes {
        assert!(matches!(refused(change), Refusal::Policy(_)));
    }
    let mut policy = Policy::new(Root::Host, HostIds::SameUser);
    for protection in Protection::ALL.into_iter().filter(|p| p.is_namespace()) {
        policy.set_need(protection, Need::Off);
    }
    // Root could do without all that Landlock leaves.
    assert!(matches!(
        Plan::new(&policy, &host(&[])),
        Err(Refusal::Policy(_))
    ));
}
