//! What clients and workers do.

use super::*;

pub(super) struct Client {
    pub(super) action: u8,
    pub(super) operation: Option<Uuid>,
    pub(super) call: Option<Call>,
    /// Counts what it has planned, of which the last alone holds.
    pub(super) plans: u32,
    pub(super) done: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Doing {
    Nothing,
    Executing(u8, Instant),
    Executed(u8),
}

pub(super) struct Worker {
    pub(super) doing: Doing,
    pub(super) claim: Option<Claim>,
    pub(super) call: Option<Call>,
    pub(super) plans: u32,
    pub(super) failures: u32,
    pub(super) is_ours: bool,
    /// Its call reports a result.
    pub(super) delivers: bool,
}

impl World {
    pub(super) fn client_wakes(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.done || client.call.is_some() {
            return;
        }
        let request = match client.operation {
            Some(name) => Request::Wait(name),
            None => Request::Execute(client.action),
        };
        self.call(Node::Client(index), request);
    }

    pub(super) fn client_hears(&mut self, index: usize, answer: Answer) {
        let client = &mut self.clients[index];
        match answer {
            Answer::Operation(name, None) => client.operation = Some(name),
            Answer::Operation(_, Some(response)) => {
                client.call = None;
                client.operation = None;
                let code = response.status.as_ref().map_or(0, |status| status.code);
                if code == 0 {
                    let result = response.result.as_ref().expect("a result");
                    let own = content(client.action);
                    assert_eq!(result.stdout_raw, own.as_bytes(), "another's result");
                    client.done = true;
                } else {
                    assert_eq!(code, Code::Unavailable as i32, "{response:?}");
                    self.wake(Node::Client(index), 100..2000);
                }
            }
            Answer::Refused => {
                client.call = None;
                client.operation = None;
                self.wake(Node::Client(index), 0..100);
            }
            Answer::Reply(_) => panic!("a client is no worker"),
        }
    }

    pub(super) fn worker_wakes(&mut self, index: usize) {
        let now = self.now.instant;
        let worker = &mut self.workers[index];
        if let Doing::Executing(action, until) = worker.doing
            && until <= now
        {
            worker.doing = Doing::Executed(action);
            self.action_cache.insert(action);
        }
        if worker.call.is_some() {
            return;
        }
        let report = match worker.doing {
            Doing::Nothing => Report::Idle,
            Doing::Executing(action, _) => Report::Executing(digest(&content(action))),
            Doing::Executed(action) => Report::Completed(digest(&content(action)), outcome(action)),
        };
        worker.delivers = matches!(report, Report::Completed(..));
        // One of another make tells with its result alone.
        let tells = worker.is_ours || worker.delivers;
        let claim = worker.claim.clone().filter(|_| tells);
        self.call(Node::Worker(index), Request::Synchronize(report, claim));
    }

    pub(super) fn worker_hears(&mut self, index: usize, answer: Answer) {
        let now = self.now;
        let (worker, node) = (&mut self.workers[index], Node::Worker(index));
        worker.call = None;
        let reply = match answer {
            Answer::Reply(reply) => reply,
            Answer::Refused => return self.worker_retries(index),
            Answer::Operation(..) => panic!("a worker is no client"),
        };
        worker.failures = 0;
        match (&reply.desired, &worker.doing) {
            (Desired::Unchanged, Doing::Executing(..)) => {
                if let Some(claim) = &mut worker.claim {
                    claim.operations.clone_from(&reply.operations);
                }
            }
            // It was done before this answer to an earlier report came.
            (Desired::Unchanged, Doing::Executed(_)) if !worker.delivers => {}
            (Desired::Execute(job), Doing::Executing(action, _) | Doing::Executed(action))
                if action_of(job.digest) == *action && !worker.delivers => {}
            (Desired::Execute(job), _) => {
                let action = action_of(job.digest);
                let takes = self.dice.milliseconds(100..40_000);
                *self.executions.entry(action).or_default() += 1;
                let worker = &mut self.workers[index];
                worker.doing = Doing::Executing(action, now.instant + takes);
                worker.claim = Some(Claim {
                    suffix: job.instance_suffix.clone(),
                    operations: reply.operations.clone(),
                    queued: job.queued,
                    do_not_cache: job.do_not_cache,
                });
            }
            (Desired::Idle | Desired::Unchanged, _) => {
                worker.doing = Doing::Nothing;
                worker.claim = None;
            }
        }
        let pause = reply.next.duration_since(now.wall).unwrap_or_default();
        let after = match self.workers[index].doing {
            Doing::Executing(_, until) => pause.min(until.saturating_duration_since(now.instant)),
            Doing::Executed(_) => Duration::ZERO,
            Doing::Nothing => pause,
        };
        self.wake_after(node, after.max(Duration::from_millis(1)));
    }

    pub(super) fn worker_retries(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        worker.call = None;
        worker.failures += 1;
        let pause = if worker.failures == 1 {
            50..51
        } else {
            0..5000
        };
        self.wake(Node::Worker(index), pause);
    }
}
