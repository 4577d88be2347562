//! How long what actions need is held: while clients wait, and some time longer.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use proto::wire::longrunning::Operation;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tonic::Status;

use crate::local::Held;

/// How long what an action needs is held for a client that went away: it may come
/// back with WaitExecution.
const RETURN: Duration = Duration::from_secs(60);

/// What is held, by the names of operations.
#[derive(Clone, Default)]
pub(super) struct Holdings(Arc<Mutex<HashMap<String, Weak<Walk>>>>);

/// The walk that holds what an action needs, and gives it. Ends with this.
struct Walk(JoinHandle<Vec<Held>>);

impl Drop for Walk {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One stream's share in what is held: from Execute until the last stream of the
/// operation has told of its end; or for a time after that broke off before it. A walk
/// that has not come to its end then is given up.
pub(super) struct Holding {
    all: Holdings,
    walk: Option<Arc<Walk>>,
    /// Once the scheduler has said it.
    name: Option<String>,
    done: bool,
}

impl Holdings {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<Walk>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holding(&self, walk: Option<Arc<Walk>>, name: Option<String>) -> Holding {
        Holding {
            all: self.clone(),
            walk,
            name,
            done: false,
        }
    }

    /// Begins to hold what the walk finds.
    pub(super) fn begin(&self, walk: impl Future<Output = Vec<Held>> + Send + 'static) -> Holding {
        let walk = Walk(tokio::spawn(walk));
        self.holding(Some(Arc::new(walk)), None)
    }

    /// For an action of which nothing is to be held.
    pub(super) fn nothing(&self) -> Holding {
        self.holding(None, None)
    }

    /// Takes part in what is held for an operation, if it still is.
    pub(super) fn again(&self, name: &str) -> Holding {
        let walk = self.lock().get(name).and_then(Weak::upgrade);
        let name = walk.is_some().then(|| name.to_owned());
        self.holding(walk, name)
    }
}

impl Holding {
    /// Hears what the scheduler says of the operation.
    pub(super) fn hear(&mut self, operation: &Result<Operation, Status>) {
        let Ok(operation) = operation else {
            return;
        };
        self.done |= operation.done;
        if let Some(walk) = &self.walk
            && self.name.is_none()
        {
            self.name = Some(operation.name.clone());
            let mut all = self.all.lock();
            all.insert(operation.name.clone(), Arc::downgrade(walk));
        }
    }

    /// The call came to nothing.
    pub(super) fn end(&mut self) {
        self.done = true;
    }
}

/// Lets go, and forgets the operation if nobody else holds on to it.
fn release(all: &Holdings, name: Option<&str>, walk: Arc<Walk>) {
    let mut all = all.lock();
    drop(walk);
    if let Some(name) = name
        && all.get(name).is_some_and(|walk| walk.strong_count() == 0)
    {
        all.remove(name);
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let Some(walk) = self.walk.take() else {
            return;
        };
        let (all, name) = (self.all.clone(), self.name.take());
        if self.done || !walk.0.is_finished() {
            release(&all, name.as_deref(), walk);
        } else if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(RETURN).await;
                release(&all, name.as_deref(), walk);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::{Blobs, Limits};
    use crate::store::{BlobStore as _, source};
    use proto::{Digest, DigestFunction, InstanceName};

    fn said(done: bool) -> Result<Operation, Status> {
        Ok(Operation {
            name: "operation".into(),
            done,
            ..Operation::default()
        })
    }

    /// A store of two blocks, and a walk that holds the one blob in it.
    struct Store {
        _folder: tempfile::TempDir,
        blobs: Blobs,
        root: InstanceName,
    }

    impl Store {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let limits = Limits {
                disk: 2 * 4096,
                memory: 0,
            };
            Self {
                blobs: Blobs::open(folder.path(), limits).unwrap(),
                _folder: folder,
                root: InstanceName::empty(),
            }
        }

        async fn put(&self, content: &'static [u8]) -> Digest {
            let digest = Digest::of(DigestFunction::Sha256, content);
            let bytes = source(content.into())(0);
            self.blobs.write(&self.root, digest, bytes).await.unwrap();
            digest
        }

        /// Whether others push it out.
        async fn is_held(&self, digest: Digest) -> bool {
            for other in [b"1", b"2", b"3"] {
                self.put(other).await;
            }
            let missing = self.blobs.find_missing(&self.root, &[digest]).await;
            missing.unwrap().is_empty()
        }

        async fn begin(&self, all: &Holdings, digest: Digest) -> Holding {
            let (blobs, root) = (self.blobs.clone(), self.root.clone());
            let (told, hears) = tokio::sync::oneshot::channel();
            let holding = all.begin(async move {
                let held = vec![blobs.hold(&root, &[digest])];
                let _ = told.send(());
                held
            });
            hears.await.unwrap();
            let walk = holding.walk.as_ref().unwrap();
            while !walk.0.is_finished() {
                tokio::task::yield_now().await;
            }
            holding
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_comes_back_in_time_finds_all_held_until_the_end() {
        let store = Store::new();
        let all = Holdings::default();
        let digest = store.put(b"x").await;
        let mut first = store.begin(&all, digest).await;
        first.hear(&said(false));
        drop(first);
        tokio::time::sleep(RETURN / 2).await;
        let mut second = all.again("operation");
        tokio::time::sleep(RETURN * 2).await;
        assert!(store.is_held(digest).await);
        second.hear(&said(true));
        drop(second);
        assert!(!store.is_held(digest).await);
        assert!(all.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_comes_back_for_is_let_go() {
        let store = Store::new();
        let all = Holdings::default();
        let digest = store.put(b"x").await;
        let mut holding = store.begin(&all, digest).await;
        holding.hear(&said(false));
        drop(holding);
        assert!(store.is_held(digest).await);
        tokio::time::sleep(RETURN * 2).await;
        assert!(!store.is_held(digest).await);
        assert!(all.lock().is_empty());
        assert!(all.again("operation").walk.is_none());
    }

    #[tokio::test]
    async fn a_walk_ends_with_its_call() {
        struct Gone(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for Gone {
            fn drop(&mut self) {
                let _ = self.0.take().map(|gone| gone.send(()));
            }
        }
        let (gone, told) = tokio::sync::oneshot::channel();
        let gone = Gone(Some(gone));
        let holding = Holdings::default().begin(async move {
            let _gone = gone;
            std::future::pending().await
        });
        drop(holding);
        told.await.unwrap();
    }
}
