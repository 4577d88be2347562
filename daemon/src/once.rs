//! A channel over one connection.
//!
//! Where a connection that is lost means that another program may answer the next one,
//! what was found out about a peer holds for a connection and no longer. So this
//! channel does not connect again: when its connection is closed, by either end, or its
//! peer takes no more calls by it (GOAWAY; those under way may go on), it is *lost*, its
//! calls fail, and whoever wants another makes one. A call that fails by
//! [`was_not_sent`] has not reached the peer.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper_util::rt::TokioIo;
use tonic::Status;

use crate::connection::{CONNECT_TIMEOUT, endpoint};
use crate::dial::Dialer;
use crate::transport::With;
use crate::{Channel, Error, Upstream};

/// Whether a call over such a channel failed because its connection took no more calls.
#[must_use]
pub fn was_not_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::NotConnected) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether a connection is gone.
#[derive(Clone, Debug, Default)]
pub struct Lost(Arc<AtomicBool>);

impl Lost {
    /// Whether it is.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Upstream {
    /// A channel over one connection, which is made now and never again, and what
    /// tells when that is gone. Calls carry what those of [`Upstream::connect`] do.
    ///
    /// # Errors
    /// As [`Upstream::connect`]; or [`Error::Unreachable`].
    pub async fn connect_once(&self) -> Result<(Channel, Lost), Error> {
        let token = self.token()?;
        let dialer = Dialer::new(self)?;
        let unreachable = |reason: String| Error::Unreachable {
            peer: self.to_string(),
            reason,
        };
        let transport = tokio::time::timeout(CONNECT_TIMEOUT, dialer.dial())
            .await
            .map_err(|_| unreachable(format!("no answer in {} s", CONNECT_TIMEOUT.as_secs())))?
            .map_err(|error| unreachable(error.to_string()))?;
        let lost = Lost::default();
        let mut once = Some(TokioIo::new(With {
            transport,
            kept: Watch(lost.clone()),
        }));
        // The address is the dialer's business; HTTP/2 only wants some authority.
        let endpoint = endpoint("http://localhost")?;
        let told = lost.clone();
        let connector = tower::service_fn(move |_| {
            let transport = once.take();
            std::future::ready(transport.ok_or_else(|| {
                told.0.store(true, Ordering::Release);
                io::Error::from(io::ErrorKind::NotConnected)
            }))
        });
        let transport = endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        Ok((Channel { transport, token }, lost))
    }
}

/// Dropped with the one connection, when either side closes it.
struct Watch(Lost);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Release);
    }
}
