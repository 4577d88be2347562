//! What builds run that asks more of a sandbox than most: debuggers and tracers,
//! sanitizers, virtual machines and runtimes with threads and memory of their own.

use tests::action::Action;
use tests::farm::Farm;
use tests::skip;
use tests::tree::Tree;
use tests::user::As;

const PROGRAM: &str = "
    #include <stdlib.h>
    #include <string.h>
    static void fault(char *where) { where[8] = 1; }
    int main(int argc, char **argv) {
        char *memory = malloc(8);
        if (argc < 2) return 0;
        if (!strcmp(argv[1], \"overflow\")) fault(memory);
        if (!strcmp(argv[1], \"leak\")) memory = 0;
        else free(memory);
        return 0;
    }";

/// Runs a script on both farms, with the C program as an input, and checks how it
/// ends and what it prints on either stream.
fn check(test: &str, files: &[&str], script: &str, code: i32, words: &[&str]) {
    if !skip::has(test, files) {
        return;
    }
    for who in As::possible() {
        let farm = Farm::start(*who);
        let action = Action::shell(script)
            .tree(&Tree::new().file("program.c", PROGRAM))
            .do_not_cache();
        let outcome = farm.client().run(&action).exited(code);
        let printed = outcome.stdout.clone() + &outcome.stderr;
        for word in words {
            assert!(printed.contains(word), "{word:?} is not in:\n{printed}");
        }
        farm.wait_until_idle();
        farm.stop();
    }
}

#[test]
fn gdb_debugs() {
    let script = "gcc -g -o program program.c && gdb -batch -nx -ex 'break fault' \
         -ex 'run overflow' -ex bt -ex up -ex 'print argc' -ex kill ./program";
    let words = ["Breakpoint 1, fault", "#1 ", "main (argc=2", "$1 = 2"];
    check(
        "tools::gdb_debugs",
        &["/usr/bin/gdb", "/usr/bin/gcc"],
        script,
        0,
        &words,
    );
}

#[test]
fn strace_traces() {
    let script = "strace -f -e trace=execve,exit_group sh -c '/bin/true; exit 5'";
    let words = [
        "execve(\"/bin/true\"",
        "exit_group(5)",
        "+++ exited with 5 +++",
    ];
    check(
        "tools::strace_traces",
        &["/usr/bin/strace"],
        script,
        5,
        &words,
    );
}

#[test]
fn the_address_sanitizer_finds_an_overflow() {
    let script = "gcc -g -fsanitize=address -o program program.c && ./program overflow";
    let words = ["AddressSanitizer: heap-buffer-overflow", "in fault"];
    check(
        "tools::the_address_sanitizer_finds_an_overflow",
        &["/usr/bin/gcc"],
        script,
        1,
        &words,
    );
}

/// It stops the process from outside, by ptrace.
#[test]
fn the_leak_sanitizer_finds_a_leak() {
    let script = "gcc -g -fsanitize=leak -o program program.c && ./program leak";
    let words = ["LeakSanitizer: detected memory leaks", "8 byte(s) leaked"];
    check(
        "tools::the_leak_sanitizer_finds_a_leak",
        &["/usr/bin/gcc"],
        script,
        23,
        &words,
    );
}

#[test]
fn a_java_virtual_machine_runs() {
    let java = "/usr/lib/jvm/java-17-openjdk-amd64/bin/java";
    let script = format!("{java} -Xmx64m -XX:+UseG1GC -XshowSettings:system -version");
    let words = ["OpenJDK Runtime Environment"];
    check(
        "tools::a_java_virtual_machine_runs",
        &[java],
        &script,
        0,
        &words,
    );
}

#[test]
fn processes_of_python_share_memory() {
    let script = r#"/usr/bin/python3 -c '
import multiprocessing as m
from multiprocessing import shared_memory
def square(number):
    return number * number
if __name__ == "__main__":
    m.set_start_method("fork")
    with m.Pool(3) as pool:
        print(sum(pool.map(square, range(100))))
    memory = shared_memory.SharedMemory(create=True, size=64)
    memory.buf[0] = 7
    other = m.Process(target=lambda: memory.buf.__setitem__(1, memory.buf[0] + 1))
    other.start(); other.join()
    print(bytes(memory.buf[:2]))
    memory.close(); memory.unlink()
'"#;
    let words = ["328350", r"b'\x07\x08'"];
    check(
        "tools::processes_of_python_share_memory",
        &["/usr/bin/python3"],
        script,
        0,
        &words,
    );
}

/// One of Debian's that is written in Go: its runtime makes threads, signals and
/// timers of its own.
#[test]
fn a_go_program_runs() {
    let script = "age-keygen -o key && age -r $(age-keygen -y key) -o secret program.c && \
         age -d -i key secret | cmp - program.c && echo equal";
    let files = ["/usr/bin/age", "/usr/bin/age-keygen"];
    check("tools::a_go_program_runs", &files, script, 0, &["equal"]);
}
