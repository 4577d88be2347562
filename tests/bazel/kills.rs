//! Builds go on while programs of the farm are killed.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::farm::Farm;
use tests::metrics::tell_executed;
use tests::wait::wait_for;

use crate::client::{Workspace, has_bazel, leave, setup};

/// What `//slow:whole` needs and itself.
const ACTIONS: usize = 25;

fn farm() -> Farm {
    setup()
        .environment("HAYLOFT_LOG", "info,worker=debug")
        .start()
}

/// Kills programs, each once so many actions were begun, while Bazel builds `//slow:whole`.
fn build_through(farm: &Farm, kills: &[(&str, usize)]) {
    let workspace = Workspace::features(farm);
    std::thread::scope(|scope| {
        let build = scope.spawn(|| workspace.bazel("first", &["build", "//slow:whole"]));
        for (role, enough) in kills {
            wait_for("actions to run", || {
                (farm.executions().len() >= *enough).then_some(())
            });
            let role = farm.role(role);
            kill(Pid::from_raw(role.pid), Signal::SIGKILL).expect("it is there");
            wait_for("its end", || (!role.is_there()).then_some(()));
        }
        let build = build.join().expect("Bazel ends");
        build.assert(0, &["26 processes: ", "Build completed successfully"]);
    });
    let whole = workspace.read("first", "slow/whole.txt");
    let numbers: Vec<_> = (0..24).map(|number| number.to_string()).collect();
    assert_eq!(whole.lines().collect::<Vec<_>>(), numbers);
    // Schedulers that were killed have taken their counts along.
    let count = farm.executions().len();
    let killed: Vec<_> = kills.iter().map(|(role, _)| *role).collect();
    let built = format!("Bazel 4.2.3: through kills of {}", killed.join(", "));
    tell_executed(count as u64, &built);
    assert_eq!(count, ACTIONS);
}

#[test]
fn bazel_builds_on_while_the_scheduler_is_killed_and_nothing_runs_twice() {
    let name = "bazel_builds_on_while_the_scheduler_is_killed_and_nothing_runs_twice";
    if !has_bazel(name) {
        return;
    }
    let farm = farm();
    build_through(&farm, &[("scheduler", 4), ("scheduler", 12)]);
    let executions = farm.executions();
    assert!(
        executions.values().all(|count| *count == 1),
        "{executions:#?}"
    );
    // Twice a scheduler took over what it found.
    let adopted = farm.log().matches("adopted what a worker executes").count();
    assert!(adopted >= 2, "{adopted} were adopted:\n{}", farm.log());
    leave(farm);
}

#[test]
fn bazel_builds_on_while_scheduler_worker_and_runner_are_killed() {
    let name = "bazel_builds_on_while_scheduler_worker_and_runner_are_killed";
    if !has_bazel(name) {
        return;
    }
    let farm = farm();
    build_through(&farm, &[("worker", 4), ("runner", 10), ("scheduler", 16)]);
    leave(farm);
}
