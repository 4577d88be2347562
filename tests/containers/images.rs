//! The images of the examples, and stand-ins for those that are other people's: nothing
//! can be pulled here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;
use tests::ran::Ran;

use crate::compose::{self, Build, File};
use crate::engine::Engine;

const DEBOOTSTRAP: &str = "/usr/sbin/debootstrap";
pub const BUSYBOX: &str = "/bin/busybox";
pub const NEEDED: [&str; 2] = [DEBOOTSTRAP, BUSYBOX];

/// Google's image of Ubuntu 16.04, by whatever digest.
const RBE: &str = "marketplace.gcr.io/google/rbe-ubuntu16-04@";
/// What stands in for it: this machine's distribution with a C++ compiler.
const USERLAND: &str = "hayloft-tests/userland";
/// The examples' own busybox, made of Debian's.
const SHELL: &str = "busybox:1.31.1-uclibc";

/// What an image of an example is called here.
pub fn stand_in(image: &str) -> &str {
    if image.starts_with(RBE) {
        USERLAND
    } else {
        image
    }
}

/// The sources of the project.
pub fn project() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    path.canonicalize().expect("the project")
}

/// The static programs, built once.
pub fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
        // Tests lie in TARGET/PROFILE/deps.
        let test = std::env::current_exe().expect("a test knows where it is");
        let target = test
            .ancestors()
            .nth(3)
            .expect("tests lie three folders deep");
        build_static(&project(), target, &place, &[]);
        place
    })
}

/// Runs the script of the sources that are there.
pub fn build_static(project: &Path, target: &Path, place: &Path, programs: &[&str]) {
    let mut build = Command::new(project.join("deploy/build-static"));
    build
        .arg(place)
        .args(programs)
        .env("CARGO_TARGET_DIR", target);
    let _ = Ran::of(&mut build).assert(0, &[]);
}

/// Makes every image that the examples name, unless that was done.
pub fn make(engine: &Engine) {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let context = Context::new();
        // The hayloft of an example is built on the stand-in.
        userland(engine);
        import_shell(engine);
        let mut made = BTreeMap::new();
        for name in ["rbe-ubuntu1604", "buildstream", "hayloft"] {
            for service in File::example(name).services.into_values() {
                if let Some(how) = service.build {
                    made.insert(service.image, how);
                }
            }
        }
        assert_eq!(made.len(), 5, "{made:#?}");
        for (image, how) in &made {
            context.build(engine, image, how);
        }
    });
}

/// What images are built of: the folder of the Dockerfiles, with the programs in it as
/// people are told to put them there.
struct Context(TempDir);

impl Context {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut copy = Command::new("cp");
        copy.arg("-r").arg(project().join("deploy/images/."));
        let _ = Ran::of(copy.arg(folder.path())).assert(0, &[]);
        // Somebody may have put programs there.
        let bin = folder.path().join("bin");
        let _ = fs::remove_dir_all(&bin);
        let mut copy = Command::new("cp");
        let _ = Ran::of(copy.arg("-r").arg(programs()).arg(bin)).assert(0, &[]);
        Self(folder)
    }

    fn build(&self, engine: &Engine, image: &str, how: &Build) {
        assert_eq!(
            compose::beside(&how.context),
            project().join("deploy/images")
        );
        let mut words = vec!["build".to_owned(), "--quiet".into()];
        words.push(format!("--tag={image}"));
        for (name, value) in &how.args {
            words.push(format!("--build-arg={name}={}", stand_in(value)));
        }
        words.push("--file".into());
        words.push(self.0.path().join(&how.dockerfile).display().to_string());
        words.push(self.0.path().display().to_string());
        engine.printed(words);
    }
}

fn is_there(engine: &Engine, image: &str) -> bool {
    let words = ["image", "inspect", image];
    let mut inspect = engine.docker(words);
    inspect.output().expect("docker runs").status.success()
}

/// The same distribution as this machine's, so that a Bazel here knows its compiler.
fn userland(engine: &Engine) {
    if is_there(engine, USERLAND) {
        return;
    }
    let system = fs::read_to_string("/etc/os-release").expect("what system this is");
    let name = system
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("root");
    let mut bootstrap = Command::new(DEBOOTSTRAP);
    bootstrap.args(["--variant=minbase", "--include=g++"]);
    bootstrap
        .arg(name.expect("a system of Debian's"))
        .arg(&root);
    let _ = Ran::of(&mut bootstrap).assert(0, &[]);
    import(engine, &root, USERLAND);
}

fn import_shell(engine: &Engine) {
    let folder = tempfile::tempdir().expect("a folder");
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).expect("a folder");
    fs::copy(BUSYBOX, bin.join("busybox")).expect("a copy");
    for name in ["sh", "mkdir", "chown", "chmod"] {
        std::os::unix::fs::symlink("busybox", bin.join(name)).expect("a link");
    }
    import(engine, folder.path(), SHELL);
}

fn import(engine: &Engine, folder: &Path, image: &str) {
    let mut archive = Command::new("tar");
    archive
        .arg("--create")
        .arg("--directory")
        .arg(folder)
        .arg(".");
    let mut archive = archive.stdout(Stdio::piped()).spawn().expect("tar runs");
    let mut import = engine.docker(["import", "-", image]);
    import.stdin(archive.stdout.take().expect("its output"));
    let imported = Ran::of(&mut import);
    assert!(archive.wait().expect("its end").success());
    let _ = imported.assert(0, &[]);
}

/// The bytes of an image.
pub fn size(engine: &Engine, image: &str) -> u64 {
    let size = engine.printed(["image", "inspect", "--format={{.Size}}", image]);
    size.parse().expect("a number")
}
