//! What waits for a worker, in as few bytes as it can.

use prost::Message;
use proto::wire::remoteworker::desired_state::Executing;

/// What a worker is told of an action beyond what the queue has to know: the Action
/// itself, its timeout filled in; what the client has the worker attach to the result;
/// the W3C trace context.
///
/// It is kept encoded. Decoded, its strings and maps would take three times as much for
/// as long as the action waits, and nobody reads them there.
#[derive(Clone, Debug)]
pub struct Brief(Box<[u8]>);

impl Brief {
    pub(super) fn new(told: &Executing) -> Self {
        Self(told.encode_to_vec().into())
    }

    /// The message, as far as it is filled in.
    #[must_use]
    pub fn open(&self) -> Executing {
        // What was encoded here can be decoded.
        Executing::decode(&*self.0).unwrap_or_default()
    }
}
