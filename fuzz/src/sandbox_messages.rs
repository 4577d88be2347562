use sandbox::{Reply, Request, RunRequest};

/// The protocol between the two halves of the runner. The first byte says which kind of
/// message the others are taken for.
///
/// # Panics
/// What is taken is not the same when it is sent on.
pub fn sandbox_messages(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    match kind % 3 {
        0 => {
            if let Ok(request) = Request::decode(bytes) {
                assert_eq!(request.encode().as_deref(), Ok(bytes));
            }
        }
        1 => {
            if let Ok(request) = RunRequest::decode(bytes) {
                let again = request.encode().expect("what was decoded is sound");
                assert_eq!(RunRequest::decode(&again), Ok(request));
            }
        }
        _ => {
            if let Ok(reply) = Reply::decode(bytes) {
                // Long texts are cut.
                Reply::decode(&reply.encode()).expect("what was decoded is sound");
            }
        }
    }
}
