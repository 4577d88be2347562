//! The manifests, as kustomize makes them.

use std::process::Command;

use serde_json::Value;
use tests::ran::Ran;
use tests::{skip, yaml};

use crate::{project, text};

const KUBECTL: &str = "/opt/hayloft-clients/manifests-1/bin/kubectl";
const OVERLAYS: [&str; 2] = ["rbe-ubuntu1604", "buildstream"];

/// What `kubectl apply --kustomize` would send, or nothing where that cannot be found out.
pub fn manifests(test: &str, overlay: &str) -> Option<Vec<Value>> {
    if !skip::has(test, &[yaml::PYTHON, KUBECTL]) {
        return None;
    }
    let mut kustomize = Command::new(KUBECTL);
    kustomize.arg("kustomize");
    let made = Ran::of(kustomize.arg(project().join("deploy/kubernetes").join(overlay)));
    let made = made.assert(0, &["kind: Deployment"]);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("manifests.yaml");
    std::fs::write(&path, made.text).expect("a file");
    Some(yaml::read(&path))
}

/// Those of a kind.
pub fn of_kind<'a>(manifests: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let of_kind = manifests.iter().filter(|one| one["kind"] == kind);
    of_kind.collect()
}

/// The one whose pods are workers.
pub fn worker(manifests: &[Value]) -> &Value {
    let deployments = of_kind(manifests, "Deployment");
    let worker = deployments.into_iter().find(|one| {
        let name = one["metadata"]["name"].as_str().expect("a name");
        name.starts_with("worker")
    });
    &worker.expect("a worker")["spec"]["template"]["spec"]
}

#[test]
fn manifests_are_valid_by_the_schemas_of_kubernetes() {
    let name = "manifests_are_valid_by_the_schemas_of_kubernetes";
    for overlay in OVERLAYS {
        let Some(manifests) = manifests(name, overlay) else {
            return;
        };
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("manifests.json");
        std::fs::write(&path, Value::Array(manifests).to_string()).expect("a file");
        let program = "\
import json, sys, kubernetes_validate
for one in json.load(open(sys.argv[1])):
    for version in ['1.33', '1.35', '1.37']:
        kubernetes_validate.validate(one, version, strict=True)
    print(one['kind'])
";
        let kinds = yaml::python(program, &path);
        for kind in [
            "PodDisruptionBudget",
            "HorizontalPodAutoscaler",
            "NetworkPolicy",
            "StatefulSet",
        ] {
            assert!(kinds.lines().any(|line| line == kind), "{overlay}: {kinds}");
        }
    }
}

/// Whatever a pod names is there.
#[test]
fn manifests_refer_to_each_other() {
    for overlay in OVERLAYS {
        let Some(manifests) = manifests("manifests_refer_to_each_other", overlay) else {
            return;
        };
        let name = |one: &Value| one["metadata"]["name"].as_str().unwrap_or("").to_owned();
        let maps = of_kind(&manifests, "ConfigMap");
        let workloads = ["Deployment", "StatefulSet"].map(|kind| of_kind(&manifests, kind));
        for workload in workloads.concat() {
            let pod = &workload["spec"]["template"];
            let labels = pod["metadata"]["labels"].as_object().expect("labels");
            for (key, value) in workload["spec"]["selector"]["matchLabels"]
                .as_object()
                .expect("a selector")
            {
                assert_eq!(labels.get(key), Some(value), "{}", name(workload));
            }
            // Every program's configuration is in the map that its pod has.
            let volumes = pod["spec"]["volumes"].as_array().expect("volumes");
            let map = volumes
                .iter()
                .find_map(|one| one["configMap"]["name"].as_str());
            let map = map.expect("a configuration");
            let map = maps.iter().find(|one| name(one) == map).expect("the map");
            let mut programs = 0;
            for container in containers(&pod["spec"]) {
                for word in container["args"].as_array().into_iter().flatten() {
                    let word = word.as_str().expect("a word");
                    if let Some(file) = word.strip_prefix("/config/") {
                        assert!(map["data"][file].is_string(), "{file}");
                        programs += 1;
                    }
                }
            }
            assert!(programs > 0, "{}", name(workload));
        }
        for one in of_kind(&manifests, "HorizontalPodAutoscaler") {
            let target = one["spec"]["scaleTargetRef"]["name"].as_str();
            let deployments = of_kind(&manifests, "Deployment");
            assert!(deployments.iter().any(|one| Some(&*name(one)) == target));
            let selector = &one["spec"]["metrics"][0]["external"]["metric"]["selector"];
            assert_eq!(selector["matchLabels"]["worker"], overlay);
        }
    }
}

/// All of a pod's containers.
pub fn containers(pod: &Value) -> Vec<&Value> {
    let lists = ["initContainers", "containers"].map(|list| pod[list].as_array());
    lists.into_iter().flatten().flatten().collect()
}

/// What the autoscaler asks for is what the scheduler tells.
#[test]
fn rules_for_autoscaling_name_metrics_of_the_scheduler() {
    let rules = text("deploy/kubernetes/autoscaling/rules.yaml");
    let metrics = text("scheduler/src/metrics/standing.rs");
    let mut named = 0;
    for word in rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        if word.starts_with("hayloft_scheduler_") {
            assert!(metrics.contains(&format!("\"{word}\"")), "{word}");
            named += 1;
        }
    }
    assert_eq!(named, 4);
}
