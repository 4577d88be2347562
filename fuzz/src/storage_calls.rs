use std::sync::{Arc, OnceLock};

use prost::Message as _;
use proto::wire::bytestream::WriteRequest;
use storage::local::{Actions, Blobs, Limits};
use tonic::service::Routes;

use crate::calls::{call, pieces, run};

/// The methods that are called. The first is the one for uploads.
pub const METHODS: [&str; 10] = [
    "/google.bytestream.ByteStream/Write",
    "/google.bytestream.ByteStream/Read",
    "/google.bytestream.ByteStream/QueryWriteStatus",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/GetTree",
    "/build.bazel.remote.execution.v2.ActionCache/GetActionResult",
    "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult",
    "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities",
];

/// What the store may take on disk, in bytes.
const DISK: u64 = 1 << 20;

/// The longest answer: a store of that size read by each of the largest number of
/// digests that an input has room for would be far more.
const LONGEST: usize = 8 << 20;

/// One store for all inputs.
struct Store {
    routes: Routes,
    blobs: Blobs,
    _folder: tempfile::TempDir,
}

fn store() -> &'static Store {
    static STORE: OnceLock<Store> = OnceLock::new();
    STORE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let limits = Limits {
            disk: DISK,
            memory: 1 << 16,
        };
        let blobs = Blobs::open(&folder.path().join("blobs"), limits).expect("a store");
        let actions = Actions::open(&folder.path().join("actions"), DISK).expect("a cache");
        let routes = storage::internal_routes(
            Arc::new(blobs.clone()),
            Arc::new(actions),
            storage::Authorizers::default(),
        );
        Store {
            routes,
            blobs,
            _folder: folder,
        }
    })
}

/// Calls to the embedded store: ByteStream's state machine, blobs packed with zstd,
/// batches. Each is answered with a status; no answer is longer than what was stored
/// could make it, and the store does not grow beyond its limit: a bomb is not unpacked
/// beyond its digest's size. The first byte of an input is the method; of an upload
/// follow, in pieces, its name and what is in its messages, of other calls the
/// messages as they are.
///
/// # Panics
/// It does not.
pub fn storage_calls(input: &[u8]) {
    run(async {
        let Some((method, rest)) = input.split_first() else {
            return;
        };
        let store = store();
        let pieces = pieces(rest);
        let path = METHODS[usize::from(*method) % METHODS.len()];
        let told = match pieces.split_first() {
            Some((name, data)) if path == METHODS[0] => {
                let messages = upload(name, data);
                let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
                call(&store.routes, path, &messages).await
            }
            _ => call(&store.routes, path, &pieces).await,
        };
        assert!(told <= LONGEST, "{told} bytes");
        let held = store.blobs.size();
        assert!(held <= DISK, "{held} bytes are stored");
    });
}

/// An upload of these pieces, well-formed in its offsets: where a piece begins with
/// 0xff, it goes back to the start, and the rest of it is a message as it is.
fn upload(name: &[u8], data: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut offset = 0;
    let mut messages = Vec::new();
    for (index, piece) in data.iter().enumerate() {
        if let [0xff, message @ ..] = piece {
            messages.push(message.to_vec());
            continue;
        }
        let message = WriteRequest {
            resource_name: String::from_utf8_lossy(name).into_owned(),
            write_offset: offset,
            finish_write: index + 1 == data.len(),
            data: piece.to_vec(),
        };
        offset += i64::try_from(piece.len()).expect("inputs are small");
        messages.push(message.encode_to_vec());
    }
    messages
}
