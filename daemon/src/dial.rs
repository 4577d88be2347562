//! Making connections to a peer.

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::connection::{KEEPALIVE, KEEPALIVE_INTERVAL, KEEPALIVE_RETRIES, to_connect};
use crate::tls::WatchedClient;
use crate::transport::Transport;
use crate::{Address, Error, Upstream};

/// Makes connections to one peer, each with the certificates of then.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    address: Address,
    tls: Option<(ServerName<'static>, Arc<WatchedClient>)>,
}

impl Dialer {
    /// Reads the certificates.
    ///
    /// # Errors
    /// The address is one that can only be listened on, or a file cannot be used.
    pub(crate) fn new(upstream: &Upstream) -> Result<Self, Error> {
        let address = upstream.address.clone();
        let tls = match (&address, &upstream.tls) {
            (Address::Inherited(_), _) => return Err(Error::NotConnectable(address)),
            (Address::Tcp(host_port), Some(tls)) => {
                let host_port = to_connect(host_port);
                let host = host_port.rsplit_once(':').map_or("", |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let name = tls.server_name.as_deref().unwrap_or(host);
                let name = ServerName::try_from(name.to_owned())
                    .map_err(|_| Error::ServerName(name.into()))?;
                Some((name, Arc::new(tls.load()?)))
            }
            // On unix sockets nobody but the kernel is between the two.
            _ => None,
        };
        Ok(Self { address, tls })
    }

    /// Makes one.
    pub(crate) async fn dial(&self) -> io::Result<Transport> {
        let host_port = match &self.address {
            Address::Unix(path) => return UnixStream::connect(path).await.map(Transport::Unix),
            Address::Tcp(host_port) => to_connect(host_port),
            Address::Inherited(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        let stream = TcpStream::connect(host_port).await?;
        stream.set_nodelay(true)?;
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES);
        socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        let Some((name, tls)) = &self.tls else {
            return Ok(Transport::Tcp(stream));
        };
        let connector = TlsConnector::from(tls.get());
        let stream = connector.connect(name.clone(), stream).await?;
        Ok(Transport::Tls(Box::new(TlsStream::from(stream))))
    }
}
