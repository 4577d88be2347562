//! What is written in several places is the same in all.

use serde_json::Value;
use tests::{skip, yaml};

use crate::kubernetes::{containers, manifests, worker};
use crate::{project, text};

const IMAGE: &str = "marketplace.gcr.io/google/rbe-ubuntu16-04@sha256:\
                     b516a2d69537cb40a7c6a7d92d0008abb29fba8725243772bdaf2c83f1be2272";

/// An action finds the worker by the image's name, and runs in what bears it.
#[test]
fn the_image_has_one_name() {
    for (path, times) in [
        ("deploy/config/worker-rbe-ubuntu1604.toml", 1),
        ("deploy/compose/rbe-ubuntu1604.yaml", 1),
        ("deploy/compose/hayloft.yaml", 1),
        ("deploy/kubernetes/worker-rbe-ubuntu1604/runner.yaml", 1),
        ("examples/bazel-rbe-ubuntu1604/BUILD", 1),
    ] {
        let text = text(path);
        assert_eq!(text.matches(IMAGE).count(), times, "{path}");
        assert_eq!(text.matches("@sha256:b516").count(), times, "{path}");
    }
    let worker: toml::Table = text("deploy/config/worker-rbe-ubuntu1604.toml")
        .parse()
        .expect("TOML");
    let build = text("examples/bazel-rbe-ubuntu1604/BUILD");
    let platform = worker["runners"][0]["platform"].as_array().expect("a list");
    assert_eq!(platform.len(), 2);
    for property in platform {
        let line = format!("        {}: {},\n", property["name"], property["value"]);
        assert!(build.contains(&line), "{line}");
    }
}

/// Both kinds of deployments give a runner the same, and nobody more than that.
#[test]
fn containers_have_what_they_need_and_nothing_else() {
    let name = "containers_have_what_they_need_and_nothing_else";
    if !skip::has(name, &[yaml::PYTHON]) {
        return;
    }
    for example in ["rbe-ubuntu1604", "buildstream", "hayloft"] {
        let path = project().join("deploy/compose").join(example);
        let file = yaml::read(&path.with_extension("yaml")).remove(0);
        for (name, service) in file["services"].as_object().expect("services") {
            let image = service["image"].as_str().expect("an image");
            // Buildbarn's has what Buildbarn's examples give it.
            if image.contains("buildbarn") {
                continue;
            }
            assert_eq!(service["read_only"], true, "{name}");
            assert_eq!(service["cap_drop"], serde_json::json!(["ALL"]), "{name}");
            assert!(service["privileged"].is_null(), "{name}");
            assert!(
                service["pid"].is_null() && service["ipc"].is_null(),
                "{name}"
            );
            assert_eq!(
                name == "directories",
                service["cap_add"].is_array(),
                "{name}"
            );
            let user = service["user"].as_str().expect("a user");
            let of_root = ["directories", "installer"].contains(&name.as_str());
            assert_eq!(of_root, user == "0:0", "{name}");
            let options = service["security_opt"].as_array().expect("options");
            let sandboxes = ["runner", "hayloft"].contains(&name.as_str());
            assert_eq!(options.len(), if sandboxes { 4 } else { 1 }, "{name}");
            assert_eq!(options[0], "no-new-privileges:true", "{name}");
        }
    }
    for overlay in ["rbe-ubuntu1604", "buildstream"] {
        let Some(manifests) = manifests(name, overlay) else {
            return;
        };
        let pod = worker(&manifests);
        assert_eq!(pod["hostUsers"], false);
        for container in containers(pod) {
            let context = &container["securityContext"];
            let name = container["name"].as_str().expect("a name");
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            let dropped = &context["capabilities"]["drop"];
            assert_eq!(dropped, &serde_json::json!(["ALL"]), "{name}");
            let added = context["capabilities"]["add"].is_array();
            assert_eq!(name == "directories", added, "{name}");
            assert_eq!(
                name == "runner",
                context["procMount"] == "Unmasked",
                "{name}"
            );
        }
    }
}

/// A worker that is told to stop may finish the longest action there can be.
#[test]
fn the_grace_is_longer_than_the_longest_action() {
    let scheduler: toml::Table = text("deploy/config/scheduler.toml").parse().expect("TOML");
    assert_eq!(
        scheduler["maximum_execution_timeout"].as_str(),
        Some("2h"),
        "the figures below are for this"
    );
    let name = "the_grace_is_longer_than_the_longest_action";
    for overlay in ["rbe-ubuntu1604", "buildstream"] {
        let Some(manifests) = manifests(name, overlay) else {
            return;
        };
        let grace = worker(&manifests)["terminationGracePeriodSeconds"].as_u64();
        assert!(grace > Some(2 * 3600), "{grace:?}");
        let path = project().join("deploy/compose").join(overlay);
        let file: Value = yaml::read(&path.with_extension("yaml")).remove(0);
        for service in ["worker", "runner"] {
            let grace = &file["services"][service]["stop_grace_period"];
            assert_eq!(grace, "2h30m", "{service}");
        }
    }
}
