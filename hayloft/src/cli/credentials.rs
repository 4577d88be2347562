//! How a client and a farm know each other.

use std::path::PathBuf;

use clap::Args;
use daemon::Upstream;
use daemon::tls::{Files, KeyPair};

/// What is shown to the peer that the argument `address` names, and whom it is to be
/// vouched for by.
#[derive(Args, Clone, Debug, Default)]
pub struct Credentials {
    /// PEM of the authorities that vouch for the farm [default: the system's].
    #[arg(long, value_name = "FILE", requires = "address")]
    pub tls_authorities: Option<PathBuf>,
    /// PEM of the certificate that is shown to the farm.
    #[arg(long, value_name = "FILE", requires_all = ["address", "tls_key"])]
    pub tls_certificate: Option<PathBuf>,
    /// PEM of that certificate's key.
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
    /// A file with the token that calls to the farm carry; it needs TLS.
    #[arg(long, value_name = "FILE", requires = "address")]
    pub token: Option<PathBuf>,
}

impl Credentials {
    /// The peer at an address, talked to with these.
    #[must_use]
    pub fn to(&self, mut peer: Upstream) -> Upstream {
        if let Some(authorities) = &self.tls_authorities {
            let tls = peer.tls.get_or_insert_default();
            tls.server_certificate_authorities_path = Some(authorities.clone());
        }
        if let (Some(certificate), Some(key)) = (&self.tls_certificate, &self.tls_key) {
            let tls = peer.tls.get_or_insert_default();
            tls.client_key_pair = Some(KeyPair::Files(Files {
                certificate_path: certificate.clone(),
                private_key_path: key.clone(),
                refresh_interval: None,
            }));
        }
        peer.bearer_token_path.clone_from(&self.token);
        peer
    }
}
