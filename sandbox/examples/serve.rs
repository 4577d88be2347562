//! The smallest service half: it takes requests from standard input and writes
//! replies to standard output. The tests drive sandboxes through it.
//!
//! `serve BUILD_DIRECTORY KEY=VALUE...` with the keys `root` (`host`, `input`),
//! `ids` (`same`, or `START:COUNT`), `pool`, `off` (a protection), `cgroup` (a
//! directory), `grace` (milliseconds), `ro`, `rw` and `link` (paths), and the names of limits.
//!
//! Each frame is `length: u32, kind: u8, id: u64, body`, little endian; kinds
//! are `r`un (body: an encoded run request), `k`ill, re`c`laim and `p`ath
//! (body: the path). Each reply is `length: u32` and an encoded reply; the first
//! is `Started`.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sandbox::{
    CgroupChoice, Client, ClientError, Config, Frame, HostIds, Limit, Limits, Need, Policy,
    Protection, Reply, Request, Root, RunRequest, ServiceHalf, split,
};

fn main() -> ExitCode {
    let Some(config) = config() else {
        eprintln!("usage: serve BUILD_DIRECTORY [KEY=VALUE]...");
        return ExitCode::from(2);
    };
    match split(config, serve) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(3)
        }
    }
}

fn config() -> Option<Config> {
    let mut arguments = std::env::args().skip(1);
    let build_directory = arguments.next()?.into();
    let (mut root, mut ids, mut pool_size) = (Root::Host, HostIds::SameUser, 2);
    let mut off = Vec::new();
    let (mut read_only, mut read_write, mut links) = (Vec::new(), Vec::new(), Vec::new());
    let (mut cgroup, mut termination_grace) = (CgroupChoice::None, Duration::ZERO);
    let mut limits = Limits::usual();
    for argument in arguments {
        match argument.split_once('=')? {
            ("root", "input") => root = Root::Input,
            ("root", "host") => root = Root::Host,
            ("ids", "same") => ids = HostIds::SameUser,
            ("ids", range) => {
                let (start, count) = range.split_once(':')?;
                ids = HostIds::Range {
                    start: start.parse().ok()?,
                    count: count.parse().ok()?,
                };
            }
            ("pool", number) => pool_size = number.parse().ok()?,
            ("ro", path) => read_only.push(path.into()),
            ("rw", path) => read_write.push(path.into()),
            ("link", path) => links.push(path.into()),
            ("cgroup", path) => cgroup = CgroupChoice::At(path.into()),
            ("grace", millis) => termination_grace = Duration::from_millis(millis.parse().ok()?),
            ("off", name) => off.push(Protection::from_name(name)?),
            (name, value) => {
                let limit = Limit::from_name(name)?;
                limits[limit] = Some(value.parse().ok()?);
            }
        }
    }
    let mut policy = Policy::new(root, ids);
    policy.limits = limits;
    policy.read_only_binds = read_only;
    policy.read_write_binds = read_write;
    policy.symlink_temporary_directories = links;
    for protection in off {
        policy.set_need(protection, Need::Off);
    }
    Some(Config {
        policy,
        build_directory,
        pool_size,
        cgroup,
        termination_grace,
        service: ServiceHalf {
            uid: 65533,
            gid: 65533,
            keep: Vec::new(),
        },
    })
}

fn serve(client: Client) -> ExitCode {
    match exchange(&client) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn exchange(client: &Client) -> Result<(), ClientError> {
    write_reply(&Reply::Started)?;
    let stdin = io::stdin();
    loop {
        let mut polled = [
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            PollFd::new(client.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut polled, PollTimeout::NONE).map_err(io::Error::from)?;
        let [from_input, from_launcher] = polled.map(|p| p.any().unwrap_or(false));
        if from_launcher {
            loop {
                match client.receive() {
                    Ok(reply) => write_reply(&reply)?,
                    Err(error) if would_block(&error) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        if from_input {
            let Some(frame) = read_frame()? else {
                return Ok(());
            };
            loop {
                match client.send(&frame) {
                    Err(error) if would_block(&error) => {
                        let mut polled = [PollFd::new(client.as_fd(), PollFlags::POLLOUT)];
                        poll(&mut polled, PollTimeout::NONE).map_err(io::Error::from)?;
                    }
                    // More of this user's descriptors are on their way than a process
                    // may have open: the launcher is yet to take them (unix(7)).
                    Err(error) if in_flight(&error) => {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    result => break result?,
                }
            }
        }
    }
}

fn in_flight(error: &ClientError) -> bool {
    let errno = Some(nix::libc::ETOOMANYREFS);
    matches!(error, ClientError::Io(error) if error.raw_os_error() == errno)
}

fn would_block(error: &ClientError) -> bool {
    matches!(error, ClientError::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn write_reply(reply: &Reply) -> io::Result<()> {
    let bytes = reply.encode();
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut output = io::stdout().lock();
    output.write_all(&length.to_le_bytes())?;
    output.write_all(&bytes)?;
    output.flush()
}

/// Reads without buffering ahead, which `poll(2)` would not see.
fn read_frame() -> Result<Option<Frame>, ClientError> {
    let mut length = [0; 4];
    if read_some(&mut length)? == 0 {
        return Ok(None);
    }
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    if read_some(&mut bytes)? != bytes.len() || bytes.len() < 9 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let mut id = [0; 8];
    id.copy_from_slice(&bytes[1..9]);
    let id = u64::from_le_bytes(id);
    let body = bytes.split_off(9);
    let frame = match bytes[0] {
        b'r' => Frame::run(id, &RunRequest::decode(&body)?)?,
        b'k' => Frame::of(&Request::Kill { id })?,
        b'c' => Frame::of(&Request::Reclaim { id, path: body })?,
        b'p' => Frame::of(&Request::CheckPath { id, path: body })?,
        _ => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
    };
    Ok(Some(frame))
}

/// Fills the buffer unless input ends.
fn read_some(buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match nix::unistd::read(io::stdin().as_fd(), &mut buffer[filled..])? {
            0 => break,
            more => filled += more,
        }
    }
    Ok(filled)
}
