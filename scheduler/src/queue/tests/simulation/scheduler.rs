//! What the services around a queue do.

use super::*;

impl World {
    /// Does what the queue has left to be done.
    pub(super) fn settle(&mut self) {
        let effects: Vec<_> = self.queue.take_effects().collect();
        for effect in effects {
            match effect {
                Effect::Answer(key, reply) => {
                    if let Some((node, call)) = self.held.remove(&key) {
                        self.answer(node, call, Answer::Reply(reply));
                    }
                }
                Effect::Updated(name, view) => {
                    if view.response.is_some() {
                        assert!(self.ended.insert(name), "{name} ends twice");
                    }
                    let mine = self.streams.iter().filter(|(_, (_, of))| *of == name);
                    let mine: Vec<_> = mine.map(|(call, (node, _))| (*call, *node)).collect();
                    for (call, node) in mine {
                        self.update(node, call, name, view.response.clone());
                    }
                }
                // A worker that was cut off may bring it back.
                Effect::Removed(name) => {
                    self.ended.remove(&name);
                }
                Effect::Freed | Effect::Happened(_) => {}
            }
        }
        check_queue(&self.queue);
        let next = self.queue.next_timer();
        if let Some(at) = next
            && self.deadline.is_none_or(|planned| at < planned)
        {
            self.deadline = Some(at);
            let after = at.saturating_duration_since(self.now.instant);
            self.plan(after, Event::Deadline);
        }
    }

    fn update(
        &mut self,
        node: Node,
        call: Call,
        name: Uuid,
        response: Option<Arc<ExecuteResponse>>,
    ) {
        if response.is_some() {
            self.streams.remove(&call);
            self.queue.leave(self.now, name);
        }
        self.answer(node, call, Answer::Operation(name, response));
    }

    pub(super) fn arrives(&mut self, node: Node, call: Call, request: Request) {
        match request {
            Request::Execute(action) => {
                let submission = of(&[&format!("{node:?}")], &content(action));
                let submitted = self.queue.submit(self.now, submission).unwrap();
                if let Some(task) = submitted.look_up {
                    let hit = self.action_cache.contains(&action);
                    let after = self.delay();
                    self.plan(after, Event::LookedUp(self.life, task, hit));
                }
                self.attend(node, call, submitted.operation);
            }
            Request::Wait(name) => {
                if self.queue.join(self.now, name).is_some() {
                    self.attend(node, call, name);
                } else {
                    self.answer(node, call, Answer::Refused);
                }
            }
            Request::Synchronize(report, claim) => {
                let Node::Worker(index) = node else {
                    panic!("a client is no worker");
                };
                let synchronization = Synchronization {
                    claim,
                    ..synchronization(&index.to_string(), report)
                };
                match self.queue.synchronize(self.now, synchronization) {
                    Ok(Outcome::Hold(key)) => {
                        self.held.insert(key, (node, call));
                    }
                    Ok(Outcome::Reply(reply)) => self.answer(node, call, Answer::Reply(reply)),
                    Err(_) => self.answer(node, call, Answer::Refused),
                }
            }
        }
    }

    fn attend(&mut self, node: Node, call: Call, name: Uuid) {
        // What was to be told until now is in the first view.
        self.settle();
        self.streams.insert(call, (node, name));
        let view = self.queue.view(name).unwrap();
        self.update(node, call, name, view.response);
    }

    pub(super) fn gone(&mut self, call: Call) {
        let held = self.held.iter().find(|(_, (_, of))| *of == call);
        if let Some(key) = held.map(|(key, _)| *key) {
            self.held.remove(&key);
            self.queue.abandon(self.now, key);
        }
        if let Some((_, name)) = self.streams.remove(&call) {
            self.queue.leave(self.now, name);
        }
    }

    /// The scheduler is killed, and another one starts.
    pub(super) fn kill(&mut self) {
        let calls: Vec<_> = self
            .clients
            .iter()
            .enumerate()
            .map(|(index, client)| (Node::Client(index), client.call))
            .chain(
                self.workers
                    .iter()
                    .enumerate()
                    .map(|(index, worker)| (Node::Worker(index), worker.call)),
            )
            .collect();
        for (node, call) in calls {
            if let Some(call) = call {
                self.plan_within(10..500, Event::Broken(node, call));
            }
        }
        self.life += 1;
        self.queue = queue(self.life, self.now);
        self.deadline = None;
        self.held.clear();
        self.streams.clear();
        self.ended.clear();
        self.arrives.clear();
        // What was on its way is lost with its connection.
        let planned = std::mem::take(&mut self.planned);
        self.planned = planned
            .into_iter()
            .filter(|planned| !matches!(planned.2, Event::Arrives(..) | Event::Answered(..)))
            .collect();
    }
}
