//! What the log tells of an action.

use std::io;
use std::sync::{Arc, Mutex};

use proto::wire::rev2::RequestMetadata;
use tracing_subscriber::fmt::MakeWriter;

use super::*;

/// What was written.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn each_line_about_an_action_says_whose_and_which_it_is_and_who_has_it() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("scheduler=debug")
        .with_writer(lines.clone())
        .json()
        .finish();
    // Of all tests: what a line's level is compared with is shared by all threads.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let farm = Farm::start(Settings::default()).await;
    let action = farm.action("of this test alone");
    let mut call = tonic::Request::new(request(action));
    let metadata = RequestMetadata {
        tool_invocation_id: "an invocation".into(),
        ..Default::default()
    };
    let header = tonic::metadata::MetadataValue::from_bytes(&metadata.encode_to_vec());
    let name = "build.bazel.remote.execution.v2.requestmetadata-bin";
    call.metadata_mut().insert_bin(name, header);
    let mut client = Client::execute(farm.connect(), call).await.unwrap();
    client.stage().await;
    let mut worker = farm.worker("w");
    worker.take().await;
    worker.complete(action, 0).await;
    client.response().await;

    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let told: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| line["fields"].clone())
        .filter(|fields| fields["action"] == action.to_string())
        .collect();
    let messages: Vec<_> = told.iter().map(|line| line["message"].clone()).collect();
    assert_eq!(messages, ["submitted", "started", "executed", "completed"]);
    for line in &told {
        assert_eq!(line["operation"], client.name, "{line}");
        assert_eq!(line["invocation"], "an invocation", "{line}");
    }
    for line in &told[1..3] {
        assert_eq!(line["worker"], "{host=w}", "{line}");
    }
}
