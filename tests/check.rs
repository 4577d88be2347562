//! `--check`: a program tells what its configuration amounts to, and nothing else.

use std::process::Command;

fn check(role: &str, config: &str) -> std::process::Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, config).unwrap();
    Command::new(env!("CARGO_BIN_EXE_hayloft-under-test"))
        .args([role, "--check"])
        .arg(&path)
        .output()
        .unwrap()
}

#[test]
fn effective_configurations_are_printed_and_can_be_read_again() {
    for (role, config, default) in [
        (
            "storage",
            "directory = '/d'",
            "\"maximum_size_bytes\": 21474836480",
        ),
        (
            "scheduler",
            "client_grpc_servers = ['127.0.0.1:1']\nworker_grpc_servers = ['unix:/w']\n\
             content_addressable_storage = 'unix:/s'",
            "\"maximum_attempts\": 3",
        ),
        (
            "worker",
            "content_addressable_storage = 'unix:/s'\nscheduler = 'grpc://h:1'\n\
             build_directory_path = '/b'\ncache_directory_path = '/c'\n\
             [[runners]]\nendpoint = 'unix:/r'",
            "\"concurrency\": 1",
        ),
    ] {
        let printed = check(role, config);
        let text = String::from_utf8(printed.stdout).unwrap();
        assert!(printed.status.success(), "{role}");
        assert!(text.contains(default), "{role}: {text}");
        // JSON's objects are not TOML's tables, but its programs take both.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, &text).unwrap();
        let again = Command::new(env!("CARGO_BIN_EXE_hayloft-under-test"))
            .args([role, "--check"])
            .arg(&path)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(again.stdout).unwrap(), text, "{role}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let refused = check("storage", "directory = '/d'\nmaximum_size = 3");
    assert!(!refused.status.success());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("maximum_size"), "{said}");
}
