//! TLS, by rustls: certificates, keys and authorities of a configuration, read again
//! when their files change. A connection keeps what it began with.
//!
//! Keys are Buildbarn's (bb-storage, `pkg/proto/configuration/tls`), which has
//! authorities in the configuration itself; here they may also be in a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::duration::Duration;
use crate::watched::Watched;

/// How a program shows its peers who it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// Its certificate and key.
    pub server_key_pair: KeyPair,
}

/// How a program knows the server it connects to, and shows it who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClientTls {
    /// PEM of the authorities whose certificates are believed.
    #[serde(default)]
    pub server_certificate_authorities: Option<String>,
    /// A file of such PEM. With neither, the system's authorities are believed.
    #[serde(default)]
    pub server_certificate_authorities_path: Option<PathBuf>,
    /// The program's own certificate and key, for servers that ask. Absent: none.
    #[serde(default)]
    pub client_key_pair: Option<KeyPair>,
    /// The name that the server's certificate must have. Absent: the address's host.
    #[serde(default)]
    pub server_name: Option<String>,
}

/// A certificate, with those that lead to an authority, and its key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyPair {
    /// In the configuration.
    Inline(Inline),
    /// In files.
    Files(Files),
}

/// PEM in the configuration.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Inline {
    /// The certificate.
    pub certificate: String,
    /// The key.
    #[serde(serialize_with = "hidden")]
    pub private_key: String,
}

/// PEM in files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// The certificate's file.
    pub certificate_path: PathBuf,
    /// The key's file.
    pub private_key_path: PathBuf,
    /// Taken because Buildbarn's files must have it; changes are noticed at the next
    /// connection, within a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_interval: Option<Duration>,
}

impl std::fmt::Debug for Inline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inline")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// An effective configuration is printed for people to look at; keys are not.
fn hidden<S: serde::Serializer>(_: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("(hidden)")
}

/// Authorities of clients: PEM in the configuration, or in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Authorities {
    pub(crate) inline: Option<String>,
    pub(crate) path: Option<PathBuf>,
}

/// A server's side, as it is now.
pub(crate) type WatchedServer = Watched<ServerConfig>;
/// A client's side, as it is now.
pub(crate) type WatchedClient = Watched<ClientConfig>;

impl ServerTls {
    /// Reads what is in files. Clients that show a certificate must show one that
    /// `clients` believes; whether they must show one is for the authentication
    /// policy to say.
    ///
    /// # Errors
    /// A file cannot be read, or holds no certificate or key that fits.
    pub(crate) fn load(
        &self,
        clients: Option<Authorities>,
        protocol: &'static str,
    ) -> Result<WatchedServer, Error> {
        let mut files = self.server_key_pair.files();
        files.extend(clients.iter().filter_map(|clients| clients.path.clone()));
        let pair = self.server_key_pair.clone();
        Watched::new(files, move || {
            let (chain, key) = pair.read()?;
            let builder = ServerConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(|error| invalid(pair.place(), error))?;
            let builder = match &clients {
                None => builder.with_no_client_auth(),
                Some(clients) => {
                    let roots = Arc::new(clients.read()?);
                    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                        .allow_unauthenticated()
                        .build()
                        .map_err(|error| invalid(clients.place(), error))?;
                    builder.with_client_cert_verifier(verifier)
                }
            };
            let mut config = builder
                .with_single_cert(chain, key)
                .map_err(|error| invalid(pair.place(), error))?;
            config.alpn_protocols = vec![protocol.into()];
            Ok(config)
        })
    }
}

impl ClientTls {
    /// Reads what is in files.
    ///
    /// # Errors
    /// As [`ServerTls::load`]; or there are no authorities.
    pub(crate) fn load(&self) -> Result<WatchedClient, Error> {
        let authorities = Authorities {
            inline: self.server_certificate_authorities.clone(),
            path: self.server_certificate_authorities_path.clone(),
        };
        let mut files: Vec<_> = authorities.path.iter().cloned().collect();
        files.extend(self.client_key_pair.iter().flat_map(KeyPair::files));
        let pair = self.client_key_pair.clone();
        Watched::new(files, move || {
            let builder = ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(|error| invalid(authorities.place(), error))?
                .with_root_certificates(authorities.read_or_system()?);
            let mut config = match &pair {
                None => builder.with_no_client_auth(),
                Some(pair) => {
                    let (chain, key) = pair.read()?;
                    builder
                        .with_client_auth_cert(chain, key)
                        .map_err(|error| invalid(pair.place(), error))?
                }
            };
            config.alpn_protocols = vec!["h2".into()];
            Ok(config)
        })
    }
}

impl KeyPair {
    fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Inline(_) => Vec::new(),
            Self::Files(files) => {
                vec![
                    files.certificate_path.clone(),
                    files.private_key_path.clone(),
                ]
            }
        }
    }

    fn place(&self) -> &Path {
        match self {
            Self::Inline(_) => Path::new("(inline)"),
            Self::Files(files) => &files.certificate_path,
        }
    }

    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
        let inline = Path::new("(inline)");
        let (chain, key) = match self {
            Self::Inline(pair) => (
                certificates(inline, pair.certificate.as_bytes())?,
                PrivateKeyDer::from_pem_slice(pair.private_key.as_bytes())
                    .map_err(|error| invalid(inline, error))?,
            ),
            Self::Files(pair) => (
                certificates(&pair.certificate_path, &read(&pair.certificate_path)?)?,
                PrivateKeyDer::from_pem_slice(&read(&pair.private_key_path)?)
                    .map_err(|error| invalid(&pair.private_key_path, error))?,
            ),
        };
        Ok((chain, key))
    }
}

impl Authorities {
    fn place(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new("(inline)"))
    }

    fn read(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        let mut add = |place: &Path, pem: &[u8]| {
            certificates(place, pem)?
                .into_iter()
                .try_for_each(|root| roots.add(root))
                .map_err(|error| invalid(place, error))
        };
        if let Some(inline) = &self.inline {
            add(Path::new("(inline)"), inline.as_bytes())?;
        }
        if let Some(path) = &self.path {
            add(path, &read(path)?)?;
        }
        Ok(roots)
    }

    fn read_or_system(&self) -> Result<RootCertStore, Error> {
        if self.inline.is_some() || self.path.is_some() {
            return self.read();
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(Error::NoAuthorities);
        }
        Ok(roots)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| invalid(path, error))
}

fn certificates(place: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| invalid(place, error))?;
    if found.is_empty() {
        return Err(invalid(place, "there is no certificate in it"));
    }
    Ok(found)
}

fn invalid(path: &Path, reason: impl ToString) -> Error {
    Error::Tls {
        path: path.into(),
        reason: reason.to_string(),
    }
}
