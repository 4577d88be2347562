//! The containers of an example.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use tests::client::Client;
use tests::ran::Ran;
use tests::wait::{PATIENCE, wait_for, wait_for_within};

use crate::compose::{File, Service};
use crate::engine::Engine;
use crate::images;

/// An example's containers, with the options that it gives them. What differs:
///
/// - Storage, and what clients connect to, are `hayloft storage` instead of Buildbarn's.
/// - Containers with a network have this machine's; each listens on a loopback address of
///   its own, at the ports of the example, and finds the others in `/etc/hosts`.
/// - Images of others have stand-ins.
pub struct Farm {
    engine: Arc<Engine>,
    file: File,
    /// Of containers and volumes.
    prefix: String,
    addresses: BTreeMap<String, String>,
    /// What stands in for `../config`.
    config: TempDir,
    client: Option<Client>,
}

const STORAGE: &str = "storage";

impl Farm {
    /// Starts an example and waits until it takes work.
    pub fn start(example: &str) -> Self {
        Self::start_changed(example, |_| ())
    }

    /// As [`Self::start`], with something changed in the example.
    pub fn start_changed(example: &str, change: impl FnOnce(&mut File)) -> Self {
        let engine = Engine::shared();
        images::make(&engine);
        let mut file = File::example(example);
        change(&mut file);
        if file.services.contains_key(STORAGE) {
            stand_in_for_storage(&mut file);
        }
        let secret = tests::secret();
        let bytes = u16::from_str_radix(&secret[..4], 16).expect("digits");
        // Those from 127.64.0.0 are nobody's.
        let net = format!("127.{}.{}", 64 + (bytes >> 8) % 64, bytes & 0xff);
        let services = file.services.keys();
        let addresses: BTreeMap<_, _> = services
            .zip(1_u8..)
            .map(|(name, number)| (name.clone(), format!("{net}.{number}")))
            .collect();
        let config = configurations(&file, &addresses);
        let mut farm = Self {
            engine,
            file,
            prefix: format!("{example}-{}", &secret[..8]),
            addresses,
            config,
            client: None,
        };
        for name in farm.file.in_order() {
            farm.start_service(name);
        }
        let front = if farm.file.services.contains_key(STORAGE) {
            STORAGE
        } else {
            "hayloft"
        };
        farm.wait_for_port(front, 8980);
        if farm.addresses.contains_key("scheduler") {
            farm.wait_for_log("worker", "runner is ready");
        }
        farm.client = Some(Client::connect(&farm.endpoint(front)));
        farm
    }

    /// Where clients connect.
    pub fn endpoint(&self, service: &str) -> String {
        format!("grpc://{}:8980", self.addresses[service])
    }

    pub fn client(&self) -> &Client {
        self.client.as_ref().expect("the farm has started")
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What a service's container is called.
    pub fn container(&self, service: &str) -> String {
        format!("{}-{service}", self.prefix)
    }

    /// The name that the engine has for a volume of the example.
    pub fn volume(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// What the worker announces.
    pub fn platform(&self) -> Vec<(String, String)> {
        let service = &self.file.services["worker"];
        let config: toml::Table = configuration(self.config.path(), service);
        let platform = &config["runners"][0]["platform"];
        let properties = platform.as_array().expect("a list").iter();
        properties
            .map(|property| {
                let text = |key| property[key].as_str().expect("a word").to_owned();
                (text("name"), text("value"))
            })
            .collect()
    }

    /// What a container has logged.
    pub fn log(&self, service: &str) -> String {
        let mut logs = self.engine.docker(["logs", &self.container(service)]);
        Ran::of(&mut logs).text
    }

    pub fn wait_for_log(&self, service: &str, words: &str) {
        wait_for(words, || {
            let log = self.log(service);
            let end = Ran::of(&mut self.engine.docker(["ps", "--format={{.Names}}"])).text;
            let name = self.container(service);
            assert!(
                end.lines().any(|line| line == name),
                "{service} ended: {log}"
            );
            log.contains(words).then_some(())
        });
    }

    fn wait_for_port(&self, service: &str, port: u16) {
        let address = format!("{}:{port}", self.addresses[service]);
        wait_for(&address, || TcpStream::connect(&address).ok());
    }

    /// Tells a container to stop, as the example has it, and gives its exit code. What it
    /// is about to finish is far shorter than its grace, and so is its end.
    pub fn stop(&self, service: &str) -> i32 {
        let grace = self.file.services[service].stop_grace_period.as_deref();
        let mut stop = self.begin_to_stop(service, grace.map_or(10, seconds));
        let status = wait_for_within(2 * PATIENCE, "the end of a container", || {
            stop.try_wait().expect("its end can be asked for")
        });
        assert!(status.success());
        self.exit_code(service)
    }

    /// As [`Self::stop`], under way.
    fn begin_to_stop(&self, service: &str, grace: u64) -> Child {
        let time = format!("--time={grace}");
        let mut stop = self
            .engine
            .docker(["stop", &time, &self.container(service)]);
        stop.stdout(Stdio::null()).spawn().expect("docker runs")
    }

    fn exit_code(&self, service: &str) -> i32 {
        let name = self.container(service);
        let format = "--format={{.State.ExitCode}}";
        let code = self.engine.printed(["inspect", format, &name]);
        code.parse().expect("a number")
    }

    /// Starts a container that was stopped.
    pub fn start_again(&self, service: &str) {
        let name = self.container(service);
        self.engine.printed(["start", &name]);
    }

    /// Starts a service; one that others wait for runs to its end.
    fn start_service(&self, name: &str) {
        let service = &self.file.services[name];
        let mut words = vec![format!("--name={}", self.container(name))];
        words.extend(self.run_options(name));
        words.push(images::stand_in(&service.image).into());
        words.extend(service.entrypoint.iter().skip(1).cloned());
        // An address without a host is every address of the container.
        words.extend(
            service
                .command
                .iter()
                .map(|word| match word.strip_prefix(':') {
                    Some(port) => format!("{}:{port}", self.addresses[name]),
                    None => word.clone(),
                }),
        );
        if self.file.is_run_to_its_end(name) {
            let _ = self.engine.run(words).assert(0, &[]);
        } else {
            let mut run = vec!["run".into(), "--detach".into(), "--pull=never".into()];
            run.extend(words);
            self.engine.printed(run);
        }
    }

    /// The options of `docker run` for a service.
    fn run_options(&self, name: &str) -> Vec<String> {
        let service = &self.file.services[name];
        let mut options = service.options();
        match service.network_mode.as_deref() {
            None => options.push("--network=host".into()),
            Some("none") => options.push("--network=none".into()),
            Some(other) => panic!("a network {other}"),
        }
        if service.network_mode.is_none() {
            let others = self.addresses.iter();
            options.extend(others.map(|(name, at)| format!("--add-host={name}:{at}")));
        }
        if let Some(policy) = &service.restart {
            options.push(format!("--restart={policy}"));
        }
        if let Some(program) = service.entrypoint.first() {
            options.push(format!("--entrypoint={program}"));
        }
        for volume in &service.volumes {
            let (from, to) = volume.split_once(':').expect("FROM:TO");
            let from = match from {
                "../config" => self.config.path().display().to_string(),
                name => {
                    assert!(self.file.volumes.contains_key(name), "{name}");
                    self.volume(name)
                }
            };
            options.push(format!("--volume={from}:{to}"));
        }
        options
    }

    /// Runs the runner as the example does, but without one of its options.
    pub fn run_runner_without(&self, lacking: &str) -> Ran {
        let service = &self.file.services["runner"];
        let mut words = self.run_options("runner");
        let given = words.len();
        words.retain(|word| {
            let is_it = word.starts_with(&format!("--security-opt={lacking}="));
            !is_it && !word.starts_with("--restart")
        });
        assert_eq!(words.len(), given - 2, "{words:?}");
        words.push(images::stand_in(&service.image).into());
        words.extend(service.command.iter().cloned());
        self.engine.run(words)
    }

    /// Runs an image of the example once more as it runs a service, but to its end.
    pub fn run_once(&self, service: &str) -> Ran {
        let mut words = self.run_options(service);
        words.push(self.file.services[service].image.clone());
        self.engine.run(words)
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        let services = self.file.services.keys();
        let names: Vec<_> = services.map(|name| self.container(name)).collect();
        if std::thread::panicking() {
            for name in self.file.services.keys() {
                eprintln!("log of {name}:\n{}", self.log(name));
            }
        }
        let mut remove = self.engine.docker(["rm", "--force", "--volumes"]);
        let _ = remove.args(names).output();
        let volumes = self.file.volumes.keys();
        let volumes: Vec<_> = volumes.map(|name| self.volume(name)).collect();
        let mut remove = self.engine.docker(["volume", "rm", "--force"]);
        let _ = remove.args(volumes).output();
    }
}

/// Hayloft's storage takes both places of Buildbarn's.
fn stand_in_for_storage(file: &mut File) {
    file.services.remove("frontend").expect("a front");
    let storage = Service {
        image: "hayloft/hayloft".into(),
        command: vec![STORAGE.into(), "/config/storage.toml".into()],
        user: Some("65532:65532".into()),
        read_only: true,
        cap_drop: vec!["ALL".into()],
        tmpfs: vec!["/storage:uid=65532,gid=65532".into()],
        volumes: vec!["../config:/config:ro".into()],
        ..Default::default()
    };
    file.services.insert(STORAGE.into(), storage);
}

/// A copy of the examples' configurations that listen on addresses of their own.
fn configurations(file: &File, addresses: &BTreeMap<String, String>) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path();
    let source = images::project().join("deploy/config");
    for entry in fs::read_dir(source).expect("the configurations") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        fs::copy(&path, place.join(name)).expect("a copy");
    }
    if let Some(address) = addresses.get(STORAGE) {
        let text = format!(
            "directory = '/storage/store'\n\
             client_listen_addresses = ['{address}:8980']\n\
             internal_listen_addresses = ['{address}:8981']\n\
             scheduler = 'scheduler:8982'\n"
        );
        fs::write(place.join("storage.toml"), text).expect("a configuration");
    }
    for (name, service) in &file.services {
        let Some(path) = configuration_path(place, service) else {
            continue;
        };
        if service.network_mode.is_none() {
            let text = fs::read_to_string(&path).expect("a configuration");
            let text = text.replace("\":", &format!("\"{}:", addresses[name]));
            fs::write(&path, text).expect("a configuration");
        }
    }
    // Containers' users read it.
    let _ = Ran::of(
        std::process::Command::new("chmod")
            .args(["-R", "a+rX"])
            .arg(place),
    );
    folder
}

/// Where a service's configuration is, if it has one of ours.
fn configuration_path(config: &Path, service: &Service) -> Option<std::path::PathBuf> {
    let name = service.command.last()?.strip_prefix("/config/")?;
    name.ends_with(".toml").then(|| config.join(name))
}

fn configuration(config: &Path, service: &Service) -> toml::Table {
    let path = configuration_path(config, service).expect("a configuration");
    let text = fs::read_to_string(path).expect("a configuration");
    text.parse().expect("TOML")
}

/// What a span like `2h30m` amounts to.
fn seconds(span: &str) -> u64 {
    let mut all = 0;
    let mut number = String::new();
    for letter in span.chars() {
        match letter {
            '0'..='9' => number.push(letter),
            _ => {
                let count: u64 = number.parse().expect("a number");
                number.clear();
                all += count
                    * match letter {
                        'h' => 3600,
                        'm' => 60,
                        's' => 1,
                        other => panic!("{other} in {span}"),
                    };
            }
        }
    }
    assert!(number.is_empty(), "{span} has no unit");
    all
}
