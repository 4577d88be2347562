//! Who may do what at an endpoint of the storage, by kind of call.

use daemon::{Authorizer, Principal};
use proto::InstanceName;
use serde::{Deserialize, Serialize};
use tonic::{Extensions, Status};

/// The rules of each kind of call at one endpoint; absent, everybody may. Bb-storage
/// divides calls the same way (`pkg/proto/configuration/bb_storage`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Authorizers {
    /// To read blobs: ByteStream.Read, BatchReadBlobs, GetTree.
    pub get_blobs: Authorizer,
    /// To learn which blobs are there: FindMissingBlobs.
    pub find_missing_blobs: Authorizer,
    /// To store blobs: ByteStream.Write and QueryWriteStatus, BatchUpdateBlobs. Who may
    /// store a blob learns whether it is there already.
    pub put_blobs: Authorizer,
    /// To read action results.
    pub get_action_results: Authorizer,
    /// To write action results; at the endpoint for clients as far as
    /// `allow_client_action_cache_updates` lets anybody.
    pub put_action_results: Authorizer,
    /// To execute. An operation is known by its name alone, a random number that
    /// only those hear who began it: whoever may execute in some instance name may
    /// follow and cancel the operations whose names it knows.
    pub execute: Authorizer,
}

/// A kind of call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    GetBlobs,
    FindMissingBlobs,
    PutBlobs,
    GetActionResults,
    PutActionResults,
    Execute,
}

impl Authorizers {
    fn of(&self, call: Call) -> (&Authorizer, &'static str) {
        match call {
            Call::GetBlobs => (&self.get_blobs, "read blobs"),
            Call::FindMissingBlobs => (&self.find_missing_blobs, "find missing blobs"),
            Call::PutBlobs => (&self.put_blobs, "store blobs"),
            Call::GetActionResults => (&self.get_action_results, "read action results"),
            Call::PutActionResults => (&self.put_action_results, "write action results"),
            Call::Execute => (&self.execute, "execute"),
        }
    }

    /// Whether the caller may make a call in an instance name.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub(crate) async fn check(
        &self,
        call: Call,
        caller: &Extensions,
        instance: &InstanceName,
    ) -> Result<(), Status> {
        let (rules, what) = self.of(call);
        let caller = Principal::of(caller);
        rules.authorize(what, caller, instance).await
    }

    /// Whether the caller may follow and cancel operations whose names it knows.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub(crate) async fn follow(&self, caller: &Extensions) -> Result<(), Status> {
        let caller = Principal::of(caller);
        self.execute
            .authorize_any("follow operations", caller)
            .await
    }
}
