//! What attacks run inside an action, and, to show that they can succeed, outside.
//!
//! One subcommand for each attack of the isolation tests. Each thing that it
//! tries becomes one line on standard output, `NAME: OK` or `NAME: ERRNO`; the
//! exit code is 0 however much was refused. `isolation/` says what may succeed.
//! A few more do what a shell would, where there is none.

mod helpers;
mod inputs;
mod network;
mod privilege;
mod processes;
mod reach;
mod report;

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
        ["attack-12-reaper"] => return processes::attack_reaper(),
        ["attack-13", ref targets @ ..] => processes::trace(targets),
        ["attack-14", marker] => processes::leave_daemons(marker),
        ["attack-21", secret, ref pids @ ..] => reach::look_at_processes(secret, pids),
        ["attack-24", setuid] => privilege::gain(setuid),
        ["attack-38", ref places @ ..] => network::connect(places),
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
