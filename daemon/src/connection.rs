//! Connections to peers.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::{Address, Error};

/// How much of a stream may be under way before its reader must say it keeps up.
/// The protocol's default of 64 KiB would make each blob wait on round trips.
pub(crate) const STREAM_WINDOW: u32 = 4 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 16 << 20;

/// A channel to a peer. It connects on first use and again whenever the
/// connection is lost; calls made meanwhile fail with UNAVAILABLE.
///
/// # Errors
/// The address is one that can only be listened on.
pub fn connect(address: &Address) -> Result<Channel, Error> {
    let endpoint = match address {
        Address::Tcp(host_port) => Endpoint::from_shared(format!("http://{host_port}"))?,
        Address::Unix(path) => Endpoint::from_shared(format!("unix:{}", path.display()))?,
        Address::Inherited(_) => return Err(Error::NotConnectable(address.clone())),
    };
    Ok(endpoint
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(20))
        // A peer that vanished without a word is noticed after two minutes. HTTP/2
        // pings would be sooner, but servers of gRPC for Go take those that come
        // more often than every five minutes for an attack.
        .tcp_keepalive(Some(Duration::from_secs(60)))
        .tcp_keepalive_interval(Some(Duration::from_secs(20)))
        .tcp_keepalive_retries(Some(3))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .connect_lazy())
}
