use std::io::Write;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;

use super::*;
use crate::cgroup::{Cgroup, CgroupChoice, Cgroups};
use crate::limits::{Limit, Limits};
use crate::policy::HostIds;
use crate::sandbox::{NotRun, Sandbox, State};

fn order(id: u64, request: &RunRequest) -> Result<Order, Rejection> {
    let bytes = request.encode().unwrap();
    let memory = memfd_create(c"order", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    let mut file = std::fs::File::from(memory);
    file.write_all(&bytes).unwrap();
    let seals = crate::client::required_seals();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    Order::new(id, bytes.len() as u64, file.into(), &plan())
}

fn plan() -> Plan {
    let mut limits = Limits::none();
    limits[Limit::Processes] = Some(10);
    Plan {
        start: Vec::new(),
        prepare: Vec::new(),
        request: Vec::new(),
        command: Vec::new(),
        namespaces: true,
        protections: Vec::new(),
        root: Root::Input,
        host_ids: HostIds::SameUser,
        inner_id: 0,
        limits,
        maximum_limits: Limits::none(),
    }
}

#[test]
fn no_more_is_given_than_there_is() {
    let mut wanted = request("a", "b");
    wanted.limits[Limit::Processes] = Some(10);
    order(1, &wanted).unwrap();
    wanted.limits[Limit::Processes] = Some(11);
    let rejection = order(1, &wanted).unwrap_err();
    assert_eq!(rejection.kind, crate::message::FailureKind::Request);
}

fn request(stdout: &str, stderr: &str) -> RunRequest {
    RunRequest {
        arguments: vec![b"true".to_vec()],
        input_root_directory: b"root".to_vec(),
        stdout_path: stdout.into(),
        stderr_path: stderr.into(),
        ..RunRequest::default()
    }
}

#[test]
fn output_files_are_one_run_s_alone() {
    let directions = |stdout, stderr| order(1, &request(stdout, stderr)).unwrap().directions;
    let one = directions("a", "b");
    for (stdout, stderr, shared) in [("a", "c", true), ("c", "a", true), ("c", "d", false)] {
        let other = directions(stdout, stderr);
        assert_eq!(one.share_outputs(&other), shared, "{stdout} {stderr}");
    }
    let rejection = order(1, &request("a", "a")).unwrap_err();
    assert_eq!(rejection.errno, Errno::EEXIST);
}

/// A sandbox that is ready, and its init's end of the channel.
fn ready(pidfd: BorrowedFd<'_>, cgroup: Option<Cgroup>) -> (Sandbox, OwnedFd) {
    let (kind, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, flags).unwrap();
    let sandbox = Sandbox {
        state: State::Ready,
        pid: Pid::from_raw(0),
        pidfd: pidfd.try_clone_to_owned().unwrap(),
        channel: ours,
        host_id: 0,
        network: None,
        last: None,
        silent: false,
        mount_map: None,
        cgroup,
        has_pid_namespace: true,
    };
    (sandbox, theirs)
}

/// What a plain launcher cannot open a second time: its outputs must not exist.
#[test]
fn an_order_whose_sandbox_died_goes_to_another() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP an_order_whose_sandbox_died_goes_to_another: detached mounts need root");
        return;
    }
    let directory = std::env::temp_dir().join(format!("sandbox-order-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("root")).unwrap();
    let build = std::fs::File::open(&directory).unwrap();
    let plan = plan();
    let sandbox = || ready(build.as_fd(), None);
    let (mut dead, gone) = sandbox();
    drop(gone);
    let order = order(7, &request("stdout", "stderr")).unwrap();
    let Err(NotRun::Dead(order)) = dead.run(build.as_fd(), &plan, None, order) else {
        panic!("a dead sandbox took an order");
    };
    let (mut alive, init) = sandbox();
    assert!(alive.run(build.as_fd(), &plan, None, *order).is_ok());
    let datagram = crate::client::receive_datagram(init.as_fd())
        .unwrap()
        .unwrap();
    assert_eq!(datagram.descriptors.len(), 4);
    assert!(matches!(&alive.state, State::Running(running) if running.id == 7));
    // The mount points stay as long as the run.
    assert!(directory.join("root/proc").exists());
    drop(alive);
    assert!(!directory.join("root/proc").exists());
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn no_limits_of_a_refused_order_stay_on_a_sandbox() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP no_limits_of_a_refused_order_stay_on_a_sandbox: mounts need root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let groups = directory.path().join("groups");
    std::fs::create_dir_all(&groups).unwrap();
    std::fs::create_dir_all(directory.path().join("root")).unwrap();
    std::fs::write(groups.join("cgroup.controllers"), "memory pids").unwrap();
    std::fs::write(groups.join("cgroup.procs"), "").unwrap();
    let mut cgroups = Cgroups::take(&CgroupChoice::At(groups.clone()))
        .unwrap()
        .unwrap();
    let build = std::fs::File::open(directory.path()).unwrap();
    let group = cgroups.make().unwrap();
    let limits = groups.join(format!("sandbox-{}-0", std::process::id()));
    let (mut sandbox, _init) = ready(build.as_fd(), Some(group));
    let mut refuse = |input: &str| {
        let mut request = request("stdout", "stderr");
        request.input_root_directory = input.into();
        let order = order(7, &request).unwrap();
        let ran = sandbox.run(build.as_fd(), &plan(), Some(&cgroups), order);
        assert!(matches!(ran, Err(NotRun::Rejected(_))));
        matches!(sandbox.state, State::Ready)
    };
    // What is found before any is set leaves it as it was.
    assert!(refuse("missing"));
    assert!(!limits.join("pids.max").exists());
    // When some may be set already, it is not used again.
    std::fs::create_dir(limits.join("pids.max")).unwrap();
    assert!(!refuse("root"));
}
