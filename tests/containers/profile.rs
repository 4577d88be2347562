//! A runner in a container that does not have the options of the examples.

use tests::action::Action;

use crate::can_run;
use crate::farm::Farm;

#[test]
fn what_a_container_lacks_is_named() {
    if !can_run("what_a_container_lacks_is_named") {
        return;
    }
    let farm = Farm::start("rbe-ubuntu1604");
    // Its socket is the others' too.
    assert_eq!(farm.stop("runner"), 0);
    for (lacking, said) in [
        (
            "seccomp",
            "run the container with --security-opt seccomp=deploy/seccomp-hayloft.json",
        ),
        (
            "systempaths",
            "run the container with --security-opt systempaths=unconfined",
        ),
    ] {
        let _ = farm.run_runner_without(lacking).assert(1, &[said]);
    }
}

/// Nothing but the runtime's own profile, and a configuration that gives namespaces up.
#[test]
fn a_policy_without_namespaces_runs_under_the_runtime_s_own_profile() {
    if !can_run("a_policy_without_namespaces_runs_under_the_runtime_s_own_profile") {
        return;
    }
    let farm = Farm::start_changed("rbe-ubuntu1604", |file| {
        let runner = file.services.get_mut("runner").expect("a runner");
        runner.security_opt = vec!["no-new-privileges:true".into()];
        runner.command = vec!["/config/runner-without-namespaces.toml".into()];
    });
    // The worker's cache is another user's still.
    farm.wait_for_log("worker", "inputs=Hardlink");
    let platform = farm.platform();
    let platform: Vec<_> = platform
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let script = "echo int main\\(\\) { return 0\\; } > a.cc && g++ -o a a.cc && ./a && echo built; \
                  touch /worker/x /worker/build/x 2> errors; \
                  grep -c denied errors; ls /worker/cache";
    let action = Action::shell(script).platform(&platform).output("a");
    let outcome = farm.client().run(&action).exited(2);
    assert_eq!(outcome.stdout, "built\n2\n", "{outcome:#?}");
    assert!(outcome.output("a").is_executable);
}
