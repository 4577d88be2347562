//! Compose files, as far as the examples use what there is: whatever else one says is an
//! error, so that containers under test have what the examples give and nothing more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use tests::yaml;

/// A file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    #[serde(rename = "name")]
    pub _name: String,
    pub services: BTreeMap<String, Service>,
    #[serde(default)]
    pub volumes: BTreeMap<String, Value>,
}

/// A container.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    pub image: String,
    pub build: Option<Build>,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub restart: Option<String>,
    pub user: Option<String>,
    pub read_only: bool,
    pub network_mode: Option<String>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub security_opt: Vec<String>,
    pub stop_grace_period: Option<String>,
    pub tmpfs: Vec<String>,
    pub volumes: Vec<String>,
    pub depends_on: Dependencies,
    /// All of a test's containers have the host's network or none.
    #[serde(rename = "ports")]
    pub _ports: Vec<String>,
    #[serde(rename = "expose")]
    pub _expose: Vec<String>,
}

/// How an image is made.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    pub context: PathBuf,
    #[serde(default = "dockerfile")]
    pub dockerfile: String,
    #[serde(default)]
    pub args: BTreeMap<String, String>,
}

fn dockerfile() -> String {
    "Dockerfile".into()
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Dependencies {
    Names(Vec<String>),
    Conditions(BTreeMap<String, Condition>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    pub condition: String,
}

impl Default for Dependencies {
    fn default() -> Self {
        Self::Names(Vec::new())
    }
}

impl File {
    /// The example of this name.
    pub fn example(name: &str) -> Self {
        let path = directory().join(name).with_extension("yaml");
        let mut documents = yaml::read(&path);
        assert_eq!(documents.len(), 1, "{}", path.display());
        serde_json::from_value(documents.remove(0))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The services, each after those that it depends on.
    pub fn in_order(&self) -> Vec<&str> {
        let mut order = Vec::new();
        for name in self.services.keys() {
            self.append(name, &mut order);
        }
        order
    }

    fn append<'a>(&'a self, name: &'a str, order: &mut Vec<&'a str>) {
        for dependency in self.services[name].dependencies() {
            self.append(dependency, order);
        }
        if !order.contains(&name) {
            order.push(name);
        }
    }

    /// Whether others wait for this service's end.
    pub fn is_run_to_its_end(&self, name: &str) -> bool {
        self.services.values().any(|service| {
            let Dependencies::Conditions(all) = &service.depends_on else {
                return false;
            };
            all.get(name).is_some_and(|awaited| {
                let condition = awaited.condition.as_str();
                let known = ["service_started", "service_completed_successfully"];
                assert!(known.contains(&condition), "{condition}");
                condition == known[1]
            })
        })
    }
}

impl Service {
    /// Those that are started before it.
    pub fn dependencies(&self) -> Vec<&str> {
        match &self.depends_on {
            Dependencies::Names(names) => names.iter().map(String::as_str).collect(),
            Dependencies::Conditions(all) => all.keys().map(String::as_str).collect(),
        }
    }

    /// The options of `docker run` that say what the container may: all but its volumes,
    /// its image and its network.
    pub fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if let Some(user) = &self.user {
            options.push(format!("--user={user}"));
        }
        if self.read_only {
            options.push("--read-only".into());
        }
        options.extend(
            self.cap_drop
                .iter()
                .map(|name| format!("--cap-drop={name}")),
        );
        options.extend(self.cap_add.iter().map(|name| format!("--cap-add={name}")));
        options.extend(self.tmpfs.iter().map(|place| format!("--tmpfs={place}")));
        options.extend(self.security_opt.iter().map(|option| {
            // Docker's own client reads the profile, from where it is.
            match option.strip_prefix("seccomp=") {
                Some(path) if path != "unconfined" => {
                    format!("--security-opt=seccomp={}", beside(path).display())
                }
                _ => format!("--security-opt={option}"),
            }
        }));
        options
    }
}

/// What a path of an example means.
pub fn beside(path: impl AsRef<Path>) -> PathBuf {
    let joined = directory().join(path);
    joined
        .canonicalize()
        .unwrap_or_else(|error| panic!("{}: {error}", joined.display()))
}

/// Where the examples are.
fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/compose")
}
