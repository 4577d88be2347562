//! Who may do what, by kind of call.

use daemon::{Authorizer, Principal};
use proto::InstanceName;
use tonic::Status;
use uuid::Uuid;

use super::dispatcher::Dispatcher;
use crate::queue::QueueName;

/// The rules of each kind of call.
#[derive(Clone, Debug, Default)]
pub struct Authorizers {
    /// Execute, and what is done with an operation then: to wait for it, to cancel it.
    pub execute: Authorizer,
    /// Synchronize: to be a worker.
    pub synchronize: Authorizer,
    /// To add and remove drains, and to have workers terminate.
    pub modify_drains: Authorizer,
    /// To end operations of others.
    pub kill_operations: Authorizer,
}

impl Authorizers {
    /// Whether the caller may execute in an instance name.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub async fn execute(
        &self,
        caller: &tonic::Extensions,
        instance: &InstanceName,
    ) -> Result<(), Status> {
        let caller = Principal::of(caller);
        self.execute.authorize("execute", caller, instance).await
    }

    /// Whether the caller may follow and cancel an operation. What there is not is
    /// for the call itself to tell.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub async fn follow(
        &self,
        caller: &tonic::Extensions,
        dispatcher: &Dispatcher,
        name: Uuid,
    ) -> Result<(), Status> {
        match instance_of(dispatcher, name) {
            Some(instance) => self.execute(caller, &instance).await,
            None => Ok(()),
        }
    }

    /// Whether the caller may serve a prefix of instance names.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub async fn synchronize(
        &self,
        caller: &tonic::Extensions,
        prefix: &InstanceName,
    ) -> Result<(), Status> {
        let caller = Principal::of(caller);
        let rules = &self.synchronize;
        rules.authorize("synchronize", caller, prefix).await
    }

    /// Whether the caller may change a queue's drains.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub async fn modify_drains(
        &self,
        caller: &tonic::Extensions,
        queue: &QueueName,
    ) -> Result<(), Status> {
        let caller = Principal::of(caller);
        let rules = &self.modify_drains;
        rules
            .authorize("modify drains", caller, &queue.prefix)
            .await
    }

    /// Whether the caller may have workers of any queue terminate.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub async fn terminate(&self, caller: &tonic::Extensions) -> Result<(), Status> {
        let caller = Principal::of(caller);
        let rules = &self.modify_drains;
        rules.authorize_all("terminate workers", caller).await
    }

    /// Whether the caller may end an operation. What there is not is for the call
    /// itself to tell.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub async fn kill(
        &self,
        caller: &tonic::Extensions,
        dispatcher: &Dispatcher,
        name: Uuid,
    ) -> Result<(), Status> {
        match instance_of(dispatcher, name) {
            Some(instance) => {
                let caller = Principal::of(caller);
                let rules = &self.kill_operations;
                rules.authorize("kill operations", caller, &instance).await
            }
            None => Ok(()),
        }
    }

    /// Whether the caller may end all operations of a queue.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub async fn kill_queue(
        &self,
        caller: &tonic::Extensions,
        queue: &QueueName,
    ) -> Result<(), Status> {
        let caller = Principal::of(caller);
        let rules = &self.kill_operations;
        rules
            .authorize("kill operations", caller, &queue.prefix)
            .await
    }
}

fn instance_of(dispatcher: &Dispatcher, name: Uuid) -> Option<InstanceName> {
    dispatcher.operate(|queue, _| queue.instance_of(name))
}
