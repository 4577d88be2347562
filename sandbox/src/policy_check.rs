//! Whether a policy makes sense in itself, on whatever host.

use std::path::{Component, PathBuf};

use crate::limits::Limit;
use crate::plan::Refusal;
use crate::policy::{HostIds, Need, Policy, Protection, Root};

/// What else a policy without namespaces must be.
fn without_namespaces(policy: &Policy) -> Result<(), Refusal> {
    if policy.root != Root::Host {
        return Err(Refusal::Policy(
            "an input root cannot be the root without namespaces",
        ));
    }
    if policy.host_ids != HostIds::SameUser {
        return Err(Refusal::Policy(
            "host uids other than the runner's cannot be had without namespaces",
        ));
    }
    if policy.need(Protection::LandlockFiles) != Need::Required {
        return Err(Refusal::Policy(
            "without namespaces landlock_files is what keeps commands apart: it must be \
             required",
        ));
    }
    if !policy.symlink_temporary_directories.is_empty() {
        return Err(Refusal::Policy(
            "without namespaces there is no /tmp that directories could lead to",
        ));
    }
    Ok(())
}

/// Refuses what contradicts itself.
pub(crate) fn check(policy: &Policy) -> Result<(), Refusal> {
    let is_off = |protection: &Protection| policy.need(*protection) == Need::Off;
    let mut namespaces = Protection::ALL.into_iter().filter(|p| p.is_namespace());
    if let Some(off) = namespaces.clone().find(|p| p.is_structural() && is_off(p)) {
        // A sandbox is made of namespaces, or of none.
        if let Some(protection) = namespaces.find(|protection| !is_off(protection)) {
            return Err(Refusal::Depends {
                protection,
                needs: off,
            });
        }
        without_namespaces(policy)?;
    }
    // Without capabilities the kernel lets a process restrict itself only
    // after no_new_privs.
    for protection in [Protection::Seccomp, Protection::LandlockFiles] {
        if policy.need(protection) != Need::Off
            && policy.need(Protection::NoNewPrivileges) == Need::Off
        {
            return Err(Refusal::Depends {
                protection,
                needs: Protection::NoNewPrivileges,
            });
        }
    }
    if policy.need(Protection::LandlockScopes) == Need::Required
        && policy.need(Protection::LandlockFiles) == Need::Off
    {
        return Err(Refusal::Depends {
            protection: Protection::LandlockScopes,
            needs: Protection::LandlockFiles,
        });
    }
    for limits in [&policy.limits, &policy.maximum_limits] {
        if limits
            .iter()
            .any(|(limit, value)| limit.is_positive() && value == 0)
        {
            return Err(Refusal::Policy("only limits of files' sizes may be 0"));
        }
    }
    let in_memory = [Limit::Tmpfs, Limit::Shm];
    if in_memory
        .iter()
        .any(|limit| policy.limits[*limit].is_none())
    {
        return Err(Refusal::Policy("directories in memory must have a size"));
    }
    if policy.hostname.is_empty() || policy.hostname.len() > 64 {
        return Err(Refusal::Policy("the host name must have 1 to 64 bytes"));
    }
    let places = || {
        let binds = policy
            .read_only_binds
            .iter()
            .chain(&policy.read_write_binds);
        binds.chain(&policy.symlink_temporary_directories)
    };
    let plain = |path: &PathBuf| {
        let mut parts = path.components();
        parts.next() == Some(Component::RootDir)
            && parts.clone().next().is_some()
            && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    if !places().all(plain) {
        return Err(Refusal::Policy(
            "binds and temporary directories must be absolute paths without `..`",
        ));
    }
    let own = ["/build", "/dev", "/etc", "/proc", "/tmp", "/var/tmp"];
    if places().any(|path| own.iter().any(|own| path.starts_with(own))) {
        return Err(Refusal::Policy(
            "binds and temporary directories must not lie in what sandboxes have of their own",
        ));
    }
    if policy.root == Root::Input && places().next().is_some() {
        return Err(Refusal::Policy(
            "binds and temporary directories go with the host root: the input root is not \
             added to",
        ));
    }
    if let HostIds::Range { start, count } = policy.host_ids
        && (start == 0 || count == 0 || start.checked_add(count).is_none_or(|end| end == u32::MAX))
    {
        return Err(Refusal::Policy(
            "the host uid range must not be empty, hold 0 or reach 4294967295",
        ));
    }
    Ok(())
}
