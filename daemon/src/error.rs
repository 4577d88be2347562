//! What can keep a daemon from running.
//!
//! Messages say all there is, the kernel's word included; what is in the message is
//! not given as a source as well, lest chains of errors print it twice.

use std::io;
use std::path::PathBuf;

use crate::Address;

/// A failure to start or to serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file cannot be read.
    #[error("cannot read configuration {path}: {reason}")]
    ConfigRead {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        reason: io::Error,
    },
    /// The configuration file is not TOML, or not JSON where its name ends so.
    #[error("configuration {path}: {reason}")]
    ConfigSyntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        reason: String,
    },
    /// A key is unknown, missing or of the wrong type.
    #[error("configuration {path}: at {key}: {reason}")]
    ConfigValue {
        /// The file.
        path: PathBuf,
        /// The key's place, as `runners[0].endpoint`.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The effective configuration cannot be printed.
    #[error("cannot print the configuration: {0}")]
    ConfigPrint(io::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: Address,
        /// What the kernel said.
        reason: io::Error,
    },
    /// `fd:N` names no listening socket that the process inherited.
    #[error("no listening socket was passed to this process as descriptor {0}")]
    NotInherited(usize),
    /// An address that can only be listened on, or only be connected to.
    #[error("{0} cannot be connected to")]
    NotConnectable(Address),
    /// A peer to which one connection was to be made.
    #[error("cannot reach {peer}: {reason}")]
    Unreachable {
        /// The peer.
        peer: String,
        /// Why.
        reason: String,
    },
    /// A file of certificates, of a key or of authorities cannot be used.
    #[error("TLS: {path}: {reason}")]
    Tls {
        /// The file; `(inline)` for what is in the configuration.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No authorities are configured, and the system has none.
    #[error(
        "TLS: the system has no certificate authorities: set server_certificate_authorities or \
         server_certificate_authorities_path"
    )]
    NoAuthorities,
    /// What should be the name in a server's certificate is no name.
    #[error("TLS: {0:?} is no name of a server")]
    ServerName(String),
    /// An authentication policy contradicts itself or its listener.
    #[error("authentication_policy: {0}")]
    Policy(String),
    /// The file of a token cannot be used.
    #[error("bearer_token_path: {path}: {reason}")]
    Token {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A token would be readable by everybody between the two ends.
    #[error("bearer_token_path needs tls: {0} is talked to in the clear")]
    TokenInTheClear(Address),
    /// The diagnostics server does not start.
    #[error("cannot serve diagnostics: {0}")]
    Diagnostics(io::Error),
    /// The threads of a program cannot be started.
    #[error("cannot start threads: {0}")]
    Threads(io::Error),
    /// A signal handler cannot be installed.
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    /// The gRPC server failed.
    #[error(transparent)]
    Serve(#[from] tonic::transport::Error),
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn what_the_message_says_no_source_repeats() {
        let reason = || io::Error::other("the reason");
        for error in [
            Error::ConfigRead {
                path: "/c".into(),
                reason: reason(),
            },
            Error::Listen {
                address: Address::Tcp("h:1".into()),
                reason: reason(),
            },
            Error::Signals(reason()),
        ] {
            assert!(error.to_string().ends_with(": the reason"), "{error}");
            assert!(error.source().is_none());
        }
    }
}
