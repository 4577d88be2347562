//! Input roots that are overlays: what a command sees, what it may do, and what
//! becomes of the layers below.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use sandbox::{End, RunRequest};

use crate::farm::{Farm, Mode, shell};

/// Owns the build directory.
const WORKER: u32 = 64_777;

fn put(path: &Path, bytes: &str, mode: u32) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    chown(path, Some(WORKER), Some(WORKER)).unwrap();
}

fn folder(path: &Path) {
    std::fs::create_dir(path).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    chown(path, Some(WORKER), Some(WORKER)).unwrap();
}

struct Layered {
    farm: Farm,
    build: PathBuf,
    request: RunRequest,
}

/// `top/{fresh,both}`, over `placed/{both,sub/{input,other}}`, over
/// `base/sub/{old,gone}`; `top` lacks `sub/gone`.
fn layered(options: &[&str]) -> Option<Layered> {
    let mode = Mode::root("overlay")?;
    let farm = Farm::start_owned(mode, options, WORKER);
    let build = farm.directory().join("0");
    folder(&build);
    for name in [
        "top",
        "placed",
        "placed/sub",
        "base",
        "base/sub",
        "scratch",
        "scratch/upper",
    ] {
        folder(&build.join(name));
    }
    let whiteout = build.join("top/sub");
    folder(&whiteout);
    nix::sys::stat::mknod(
        &whiteout.join("gone"),
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::empty(),
        0,
    )
    .unwrap();
    put(&build.join("top/fresh"), "fresh", 0o444);
    put(&build.join("top/both"), "above", 0o444);
    put(&build.join("placed/both"), "below", 0o444);
    put(&build.join("placed/sub/input"), "input", 0o444);
    put(&build.join("placed/sub/other"), "other", 0o444);
    put(&build.join("base/sub/old"), "old", 0o444);
    put(&build.join("base/sub/gone"), "gone", 0o444);
    let text = |name: &str| format!("0/{name}").into_bytes();
    let request = RunRequest {
        input_root_directory: text("top"),
        lower_directories: vec![text("placed"), text("base")],
        scratch_directory: text("scratch"),
        stdout_path: text("stdout"),
        stderr_path: text("stderr"),
        ..RunRequest::default()
    };
    Some(Layered {
        farm,
        build,
        request,
    })
}

impl Layered {
    fn run(&mut self, script: &str) -> String {
        for name in ["stdout", "stderr"] {
            let _ = std::fs::remove_file(self.build.join(name));
        }
        let request = RunRequest {
            arguments: shell(script).arguments,
            environment: shell(script).environment,
            ..self.request.clone()
        };
        let reply = self.farm.answer(&request);
        let read = |name| std::fs::read_to_string(self.build.join(name)).unwrap_or_default();
        let sandbox::Reply::Done(done) = &reply else {
            panic!("{reply:?}");
        };
        assert_eq!(
            done.end,
            End::Exited(0),
            "{}{}",
            read("stdout"),
            read("stderr")
        );
        read("stdout")
    }
}

/// Everything about an inode that a command could change.
fn inode(path: &Path) -> (u64, u32, u32, u64, i64, i64, i64, i64, Vec<u8>) {
    let stat = std::fs::symlink_metadata(path).unwrap();
    let bytes = std::fs::read(path).unwrap();
    (
        stat.ino(),
        stat.mode(),
        stat.uid(),
        stat.nlink(),
        stat.mtime(),
        stat.mtime_nsec(),
        stat.ctime(),
        stat.ctime_nsec(),
        bytes,
    )
}

#[test]
fn an_overlay_is_the_command_s_own_and_its_layers_stay_as_they_are() {
    let Some(mut layered) = layered(&[]) else {
        return;
    };
    let inputs: Vec<_> = ["top/fresh", "top/both", "placed/both", "placed/sub/input"]
        .into_iter()
        .chain(["placed/sub/other", "base/sub/old", "base/sub/gone"])
        .map(|name| layered.build.join(name))
        .collect();
    let before: Vec<_> = inputs.iter().map(|path| inode(path)).collect();
    let seen = layered.run(
        "set -e
         ls sub; cat both fresh; stat -c ' %u %a' sub/input sub
         echo more > sub/more; chmod 600 sub/input; echo x >> sub/input
         mv sub/other sub/moved; rm sub/old; ln fresh linked; touch -d @5 fresh
         rm both; mkdir both; echo in > both/in; mkdir -m 700 closed; cat sub/input
         ls sub",
    );
    assert_eq!(
        seen,
        "input\nold\nother\nabovefresh 1000 444\n 1000 755\ninputx\ninput\nmore\nmoved\n"
    );
    let after: Vec<_> = inputs.iter().map(|path| inode(path)).collect();
    assert_eq!(before, after);
    let upper = layered.build.join("scratch/upper");
    assert!(!layered.build.join("scratch/work").exists());
    // What it made is the worker's.
    for path in [
        "sub/more",
        "sub/moved",
        "both",
        "both/in",
        "closed",
        "sub/input",
    ] {
        let stat = std::fs::symlink_metadata(upper.join(path)).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (WORKER, WORKER), "{path}");
    }
    layered.farm.stop();
}

#[test]
fn an_overlay_can_be_the_root_and_one_run_sees_nothing_of_another() {
    let Some(mut layered) = layered(&["root=input"]) else {
        return;
    };
    crate::farm::copy_userland(&layered.build.join("base"));
    for entry in walk(&layered.build.join("base")) {
        chown(&entry, Some(WORKER), Some(WORKER)).unwrap();
    }
    assert_eq!(layered.run("echo one > /sub/input; echo /*"), {
        "/bin /both /dev /fresh /lib /lib64 /proc /sub /tmp\n"
    });
    let upper = layered.build.join("scratch/upper");
    for name in ["proc", "dev", "tmp"] {
        assert!(!upper.join(name).exists(), "{name}");
    }
    std::fs::remove_dir_all(&upper).unwrap();
    folder(&upper);
    assert_eq!(layered.run("read line < /sub/input; echo $line"), "input\n");
    layered.farm.stop();
}

#[test]
fn an_overlay_that_cannot_be_made_is_told() {
    let Some(mut layered) = layered(&[]) else {
        return;
    };
    layered.request.lower_directories.push(b"0/none".to_vec());
    layered.request.arguments = shell("true").arguments;
    let request = layered.request.clone();
    let failure = layered.farm.failure_unplaced(request);
    assert!(failure.step.contains("overlay"), "{failure}");
    assert!(!layered.build.join("scratch/work").exists());
    layered.farm.stop();
}

fn walk(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_path_buf()];
    let mut at = 0;
    while at < found.len() {
        if found[at].is_dir() && !found[at].is_symlink() {
            let entries = std::fs::read_dir(&found[at]).unwrap();
            found.extend(entries.map(|entry| entry.unwrap().path()));
        }
        at += 1;
    }
    found
}
