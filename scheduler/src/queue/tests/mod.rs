//! The rules at work together: a farm to play schedules on.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use proto::wire::protobuf;
use proto::wire::rev2::{Action, ExecuteResponse};
use proto::{Digest, DigestFunction, InstanceName, PlatformKey};
use tonic::Code;
use uuid::Uuid;

mod adoption;
mod clients;
mod explain;
mod fairness;
mod model;
mod random;
mod simulation;
mod size_class;
mod state;
mod tree;
mod workers;

use super::*;
use crate::Error;

/// A queue, a clock, and what the outside has been told.
pub(super) struct Farm {
    pub(super) queue: Queue,
    pub(super) now: Now,
    /// The last answers to calls that were held.
    pub(super) answers: HashMap<WorkerKey, Reply>,
    /// Of which size class workers are, by name; others are of none.
    pub(super) classes: HashMap<String, u32>,
    /// What waiting clients were told, in order.
    pub(super) told: Vec<(Uuid, Stage)>,
}

pub(super) fn digest(content: &str) -> Digest {
    Digest::of(DigestFunction::Sha256, content.as_bytes())
}

pub(super) fn os(value: &str) -> PlatformKey {
    PlatformKey::from_properties([("os".to_string(), value.to_string())])
}

pub(super) fn submission(content: &str) -> Submission {
    Submission {
        instance: InstanceName::new("main/sub").unwrap(),
        digest: digest(content),
        action: Action::default(),
        platform: os("linux"),
        priority: 0,
        invocation: Vec::new(),
        skip_cache_lookup: false,
        timeouts: None,
        metadata: Vec::new(),
        trace: HashMap::new(),
    }
}

/// An action of an invocation, named from the outermost on.
pub(super) fn of(invocation: &[&str], content: &str) -> Submission {
    Submission {
        invocation: invocation.iter().map(|name| key(name)).collect(),
        ..submission(content)
    }
}

pub(super) fn key(name: &str) -> InvocationKey {
    InvocationKey::from(protobuf::Any {
        type_url: "name".into(),
        value: name.into(),
    })
}

pub(super) fn synchronization(worker: &str, report: Report) -> Synchronization {
    Synchronization {
        worker: WorkerId::from_iter([("host".to_string(), worker.to_string())]),
        prefix: InstanceName::new("main").unwrap(),
        platform: os("linux"),
        size_class: 0,
        report,
        prefer_being_idle: false,
        claim: None,
    }
}

pub(super) fn ok() -> Box<ExecuteResponse> {
    Box::new(ExecuteResponse {
        message: "done".into(),
        ..Default::default()
    })
}

impl Farm {
    pub(super) fn new(settings: Settings) -> Self {
        let now = Now {
            instant: Instant::now(),
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
        };
        let mut state = 1u128;
        let random = Box::new(move || {
            // A linear congruence: distinct names, the same in each run.
            state = state
                .wrapping_mul(0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645)
                .wrapping_add(1);
            state
        });
        Self {
            queue: Queue::new(settings, &[], random, now),
            now,
            answers: HashMap::new(),
            classes: HashMap::new(),
            told: Vec::new(),
        }
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        let span = Duration::from_secs(seconds);
        self.now.instant += span;
        self.now.wall += span;
        self.queue.advance(self.now);
        self.settle();
    }

    pub(super) fn settle(&mut self) {
        for effect in self.queue.take_effects() {
            match effect {
                Effect::Answer(worker, reply) => {
                    self.answers.insert(worker, reply);
                }
                Effect::Updated(name, view) => self.told.push((name, view.stage)),
                Effect::Removed(_) | Effect::Freed | Effect::Happened(_) => {}
            }
        }
    }

    pub(super) fn try_submit(&mut self, submission: Submission) -> Result<Submitted, Error> {
        let submitted = self.queue.submit(self.now, submission);
        self.settle();
        submitted
    }

    pub(super) fn submit(&mut self, content: &str) -> Uuid {
        self.try_submit(submission(content)).unwrap().operation
    }

    pub(super) fn call(
        &mut self,
        worker: &str,
        report: Report,
        prefer_being_idle: bool,
    ) -> Result<Outcome, Error> {
        let call = Synchronization {
            prefer_being_idle,
            size_class: self.classes.get(worker).copied().unwrap_or(0),
            ..synchronization(worker, report)
        };
        let outcome = self.queue.synchronize(self.now, call);
        self.settle();
        outcome
    }

    pub(super) fn sync(&mut self, worker: &str, report: Report) -> Outcome {
        self.call(worker, report, false).unwrap()
    }

    pub(super) fn idle(&mut self, worker: &str) -> Outcome {
        self.sync(worker, Report::Idle)
    }

    /// Holds the call of an idle worker.
    pub(super) fn hold(&mut self, worker: &str) -> WorkerKey {
        match self.idle(worker) {
            Outcome::Hold(key) => key,
            other => panic!("not held: {other:?}"),
        }
    }

    pub(super) fn stage(&self, operation: Uuid) -> Stage {
        self.queue.view(operation).unwrap().stage
    }

    pub(super) fn response(&self, operation: Uuid) -> Option<ExecuteResponse> {
        let view = self.queue.view(operation)?;
        view.response.map(|response| (*response).clone())
    }

    pub(super) fn status(&self, operation: Uuid) -> (Code, String) {
        let status = self.response(operation).unwrap().status.unwrap();
        (Code::from_i32(status.code), status.message)
    }
}

/// The action a reply says to execute.
pub(super) fn told_to_execute(reply: &Reply) -> Option<Digest> {
    match &reply.desired {
        Desired::Execute(job) => Some(job.digest),
        Desired::Idle | Desired::Unchanged => None,
    }
}

pub(super) fn executes(outcome: &Outcome) -> Option<Digest> {
    match outcome {
        Outcome::Reply(reply) => told_to_execute(reply),
        Outcome::Hold(_) => None,
    }
}

pub(super) fn is_idle(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Reply(Reply {
            desired: Desired::Idle,
            ..
        })
    )
}
