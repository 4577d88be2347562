use prost::Message as _;
use proto::wire::runner_extension::RunRequest;

/// Whom commands see themselves as where a request says nothing.
const OWN_ID: u32 = 1000;

/// Requests of a worker to the runner: whatever is taken goes on to the launcher as it
/// was meant, and names nothing outside of the build directory.
///
/// # Panics
/// It does not.
pub fn runner_messages(input: &[u8]) {
    let Some((set_tmpdir, message)) = input.split_first() else {
        return;
    };
    let Ok(request) = RunRequest::decode(message) else {
        return;
    };
    let seen_as = (request.user_id, request.group_id);
    let Ok(valid) = runner::validate(request, set_tmpdir % 2 == 1, OWN_ID) else {
        return;
    };
    let ids = valid.ids.map_or((OWN_ID, OWN_ID), |ids| (ids.uid, ids.gid));
    let (uid, gid) = seen_as;
    assert_eq!(ids, (uid.unwrap_or(OWN_ID), gid.unwrap_or(OWN_ID)));
    let paths = [
        &valid.working_directory,
        &valid.input_root_directory,
        &valid.scratch_directory,
        &valid.temporary_directory,
        &valid.stdout_path,
        &valid.stderr_path,
    ];
    for path in paths.into_iter().chain(&valid.lower_directories) {
        let mut components = path.split(|byte| *byte == b'/');
        assert!(!path.contains(&0));
        assert!(path.is_empty() || components.all(|part| !matches!(part, b"" | b"." | b"..")));
    }
    // It may be larger than a launcher takes.
    if let Ok(bytes) = valid.encode() {
        assert_eq!(sandbox::RunRequest::decode(&bytes), Ok(valid));
    }
}
