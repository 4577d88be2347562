//! What attacks run inside an action, and, to show that they can succeed, outside.
//!
//! One subcommand for each attack of the isolation tests. Each thing that it
//! tries becomes one line on standard output, `NAME: OK` or `NAME: ERRNO`; the
//! exit code is 0 however much was refused. `isolation/` says what may succeed.
//! A few more do what a shell would, where there is none.

mod calls;
mod helpers;
mod inputs;
mod kernel;
mod machine;
mod network;
mod privilege;
mod processes;
mod reach;
mod reaper;
mod report;
mod sockets;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    match words[..] {
        ["attack-01", ref files @ ..] => inputs::open_for_writing(files),
        ["attack-02", ref files @ ..] => inputs::change_mode(files),
        ["attack-03", ref files @ ..] => inputs::change_metadata(files),
        ["attack-04", ref files @ ..] => inputs::write_otherwise(files),
        ["attack-05", folder, ref files @ ..] => inputs::link_out(folder, files),
        ["attack-08" | "attack-09", secret, start, ref paths @ ..] => {
            reach::find(secret, start, paths);
        }
        ["attack-12", ref pids @ ..] => processes::kill_others(pids),
        ["attack-12-everyone", namespace] => processes::kill_everyone(namespace),
        ["attack-13", ref targets @ ..] => processes::trace(targets),
        ["attack-14", marker] => processes::leave_daemons(marker),
        ["attack-16"] => processes::fork_without_end(),
        ["attack-21", secret, ref pids @ ..] => reach::look_at_processes(secret, pids),
        ["attack-22", ref pids @ ..] => machine::overwrite_runner(pids),
        ["attack-23"] => machine::change_settings(),
        ["attack-24", setuid] => privilege::gain(setuid),
        ["attack-25"] => machine::take_ids(),
        ["attack-26"] => kernel::nest(),
        ["attack-27"] => kernel::mount(),
        ["attack-28", file] => machine::leave_root(file),
        ["attack-29"] => kernel::surface(),
        ["attack-30"] => kernel::io_uring(),
        ["attack-31"] => kernel::keys(),
        ["attack-32"] => kernel::handle(),
        ["attack-33"] => machine::type_into_terminal(),
        ["attack-34"] => machine::devices(),
        ["attack-35"] => kernel::personality(),
        ["attack-36"] => kernel::other_entries(),
        ["attack-37"] => machine::dump_core(),
        ["attack-38", ref places @ ..] => network::connect(places),
        ["attack-39", ref places @ ..] => sockets::send(places),
        ["attack-40"] => sockets::families(),
        ["attack-41", ref names @ ..] => sockets::abstract_sockets(names),
        ["attack-42", ref paths @ ..] => sockets::path_sockets(paths),
        ["attack-43", key, name] => sockets::shared(key, name),
        ["attack-44"] => machine::inherited(),
        ["attack-45", ref host @ ..] => machine::recognise(host),
        ["attack-46"] => kernel::clock(),
        ["attack-53"] => return reaper::forge(),
        ["crash"] => machine::crash(),
        ["describe"] => machine::describe(),
        ["share", key, name] => helpers::share(key, name),
        ["unshare", key, name] => helpers::unshare(key, name),
        ["daemon", how, marker] => helpers::daemon(how, marker),
        ["hold", secret, ref port @ ..] => helpers::hold(secret, port),
        ["holding", ..] => helpers::sleep(),
        ["list", folder] => helpers::list(folder),
        ["write", file, text] => helpers::write(file, text),
        ["victim"] => helpers::victim(),
        ["whoami"] => privilege::whoami(),
        _ => {
            eprintln!("probe: no such attack: {words:?}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
