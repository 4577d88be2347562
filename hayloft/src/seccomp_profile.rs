//! The system call profile under which a container can hold a runner: a container
//! runtime's own, and what making sandboxes takes (`deploy/seccomp-hayloft.json`).
//!
//! The format is the one of Docker, Podman and Kubernetes (moby,
//! `profiles/seccomp/default.json`): rules, of which each has names, an action, and
//! conditions on arguments or capabilities.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What runtimes refuse, or allow only with a capability, and the launcher needs: it has
/// what rights these calls take inside user namespaces alone.
const NEEDED: [&str; 22] = [
    "clone",
    "clone3",
    "fsconfig",
    "fsmount",
    "fsopen",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pidfd_open",
    "pidfd_send_signal",
    "pivot_root",
    "seccomp",
    "setdomainname",
    "sethostname",
    "setns",
    "umount",
    "umount2",
    "unshare",
];

/// A runtime's own profile, with what is needed allowed whatever the arguments and
/// capabilities.
///
/// # Errors
/// It is no such profile.
pub fn widened(profile: &str) -> Result<String> {
    let mut profile: Value = serde_json::from_str(profile).context("it is not JSON")?;
    let rules = profile
        .get_mut("syscalls")
        .and_then(Value::as_array_mut)
        .context("it has no list `syscalls`")?;
    for rule in rules.iter_mut() {
        let names = rule.get_mut("names").and_then(Value::as_array_mut);
        // Whatever else is said of these, clone3's ENOSYS above all.
        names
            .context("a rule has no list `names`")?
            .retain(|name| name.as_str().is_none_or(|name| !NEEDED.contains(&name)));
    }
    let empty = |rule: &Value| rule["names"].as_array().is_none_or(Vec::is_empty);
    rules.retain(|rule| !empty(rule));
    rules.push(json!({
        "comment": "what a Hayloft runner makes sandboxes with",
        "names": NEEDED,
        "action": "SCMP_ACT_ALLOW",
    }));
    let mut text = serde_json::to_string_pretty(&profile)?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = include_str!("../../deploy/seccomp-hayloft.json");

    fn rules_about<'a>(profile: &'a Value, name: &str) -> Vec<&'a Value> {
        let rules = profile["syscalls"].as_array().unwrap();
        let about = |rule: &&Value| rule["names"].as_array().unwrap().contains(&json!(name));
        rules.iter().filter(about).collect()
    }

    #[test]
    fn what_is_needed_is_allowed_whatever_else_is_said() {
        let theirs = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["read", "clone"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 2114060288, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["mount", "bpf"], "action": "SCMP_ACT_ALLOW",
             "includes": {"caps": ["CAP_SYS_ADMIN"]}}]}"#;
        let ours: Value = serde_json::from_str(&widened(theirs).unwrap()).unwrap();
        for name in NEEDED {
            let rules = rules_about(&ours, name);
            assert_eq!(rules.len(), 1, "{name}");
            assert_eq!(rules[0]["action"], "SCMP_ACT_ALLOW");
            assert!(rules[0].get("args").is_none() && rules[0].get("includes").is_none());
        }
        // What it does not need stays as it was.
        assert_eq!(
            rules_about(&ours, "bpf")[0]["includes"]["caps"][0],
            "CAP_SYS_ADMIN"
        );
        assert_eq!(rules_about(&ours, "read").len(), 1);
        assert!(widened("[]").is_err() && widened("x").is_err());
    }

    #[test]
    fn the_file_in_deploy_is_what_this_makes() {
        assert_eq!(widened(OURS).unwrap(), OURS);
        let ours: Value = serde_json::from_str(OURS).unwrap();
        assert_eq!(ours["defaultAction"], "SCMP_ACT_ERRNO");
        // It is a runtime's: it allows what programs need, and not what nobody does.
        assert_eq!(rules_about(&ours, "read")[0]["action"], "SCMP_ACT_ALLOW");
        for name in ["kexec_load", "bpf", "init_module", "open_by_handle_at"] {
            for rule in rules_about(&ours, name) {
                let allowed = rule["action"] == "SCMP_ACT_ALLOW";
                let by_capability = rule["includes"]["caps"].is_array();
                assert!(!allowed || by_capability, "{name}");
            }
        }
    }
}
