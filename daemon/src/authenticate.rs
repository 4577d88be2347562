//! Who calls: each connection of a listener is of a [`Principal`], which its services
//! find in the extensions of requests ([`Principal::of`]).
//!
//! A policy that needs more than the connection (a token in a header, an identity
//! provider) has its place in [`AuthenticationPolicy::principal`], which is asked at
//! each call.

use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::Either;
use http::{Extensions, Request, Response};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::incoming::Peer;
use crate::tls::Authorities;

/// Who a call is from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Anybody: nobody asked.
    #[default]
    Anonymous,
    /// Whoever has the key of a certificate. Its subject's alternative names (RFC 5280,
    /// 4.2.1.6), of the kinds DNS and URI.
    Certificate(Arc<[String]>),
    /// A user of this host (`SO_PEERCRED`, unix(7)).
    User {
        /// The user's number.
        uid: u32,
        /// The number of its group.
        gid: u32,
    },
}

impl Principal {
    /// Who made a request.
    #[must_use]
    pub fn of(extensions: &Extensions) -> &Self {
        extensions.get().unwrap_or(&Self::Anonymous)
    }

    /// Whether this is who configurations call `name`: `anonymous`, `user:UID`,
    /// `group:GID` or `certificate:NAME`.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        match (self, name.split_once(':')) {
            (Self::Anonymous, None) => name == "anonymous",
            (Self::Certificate(names), Some(("certificate", wanted))) => {
                names.iter().any(|name| name == wanted)
            }
            (Self::User { uid, .. }, Some(("user", wanted))) => wanted.parse() == Ok(*uid),
            (Self::User { gid, .. }, Some(("group", wanted))) => wanted.parse() == Ok(*gid),
            _ => false,
        }
    }

    pub(crate) fn of_certificate(certificate: &CertificateDer<'_>) -> Self {
        let names = match webpki::EndEntityCert::try_from(certificate) {
            Ok(parsed) => parsed
                .valid_dns_names()
                .chain(parsed.valid_uri_names())
                .map(str::to_owned)
                .collect(),
            // It passed verification, which parses it as well.
            Err(_) => Vec::new(),
        };
        Self::Certificate(names.into())
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Certificate(names) => {
                let name = names.first().map_or("(without names)", String::as_str);
                write!(f, "certificate:{name}")
            }
            Self::User { uid, .. } => write!(f, "user:{uid}"),
        }
    }
}

/// Who may connect to a listener at all; keys are Buildbarn's (bb-storage,
/// `pkg/proto/configuration/auth`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthenticationPolicy {
    /// Anybody.
    Allow {},
    /// Nobody; callers are told this.
    Deny(String),
    /// Who any of several policies lets in; the first that does says who it is.
    Any {
        /// The policies.
        policies: Vec<AuthenticationPolicy>,
    },
    /// Who shows a certificate, and has its key.
    TlsClientCertificate(CertificatePolicy),
    /// Users of this host, on unix sockets.
    PeerCredentials(PeerCredentials),
}

/// Whose certificates are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CertificatePolicy {
    /// PEM of the authorities.
    #[serde(default)]
    pub client_certificate_authorities: Option<String>,
    /// A file of such PEM.
    #[serde(default)]
    pub client_certificate_authorities_path: Option<PathBuf>,
}

/// Which users may connect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PeerCredentials {
    /// Those of these numbers.
    #[serde(default)]
    pub uids: Vec<u32>,
    /// Those whose group has one of these numbers.
    #[serde(default)]
    pub gids: Vec<u32>,
}

impl Default for AuthenticationPolicy {
    fn default() -> Self {
        Self::Allow {}
    }
}

impl AuthenticationPolicy {
    /// Who is at the other end, or why nobody may be.
    pub(crate) fn principal(&self, peer: &Peer) -> Result<Principal, String> {
        match self {
            Self::Allow {} => Ok(peer.principal.clone()),
            Self::Deny(message) => Err(message.clone()),
            Self::Any { policies } => {
                let mut reasons = Vec::new();
                for policy in policies {
                    match policy.principal(peer) {
                        Ok(principal) => return Ok(principal),
                        Err(reason) => reasons.push(reason),
                    }
                }
                Err(reasons.join("; "))
            }
            Self::TlsClientCertificate(_) => match &peer.principal {
                principal @ Principal::Certificate(_) => Ok(principal.clone()),
                _ => Err("a client certificate is needed".into()),
            },
            Self::PeerCredentials(allowed) => match peer.principal {
                Principal::User { uid, gid }
                    if allowed.uids.contains(&uid) || allowed.gids.contains(&gid) =>
                {
                    Ok(peer.principal.clone())
                }
                Principal::User { uid, .. } => Err(format!("user {uid} may not connect")),
                _ => Err("connections must be made on this host's unix socket".into()),
            },
        }
    }

    /// The authorities of all certificates that it believes; none: it asks for no
    /// certificate.
    pub(crate) fn authorities(&self) -> Result<Option<Authorities>, String> {
        let mut found = Vec::new();
        self.gather(&mut found);
        let Some((first, others)) = found.split_first() else {
            return Ok(None);
        };
        // Which authority signed a certificate is not kept, so two policies with
        // different ones could not be told apart.
        if others.iter().any(|other| other != first) {
            return Err("policies of one listener have different authorities".into());
        }
        if *first == CertificatePolicy::default() {
            return Err("client_certificate_authorities are missing".into());
        }
        Ok(Some(Authorities {
            inline: first.client_certificate_authorities.clone(),
            path: first.client_certificate_authorities_path.clone(),
        }))
    }

    fn gather(&self, found: &mut Vec<CertificatePolicy>) {
        match self {
            Self::TlsClientCertificate(policy) => found.push(policy.clone()),
            Self::Any { policies } => policies.iter().for_each(|policy| policy.gather(found)),
            _ => {}
        }
    }
}

/// Refuses calls that the policy does not let in, and tells services who makes the
/// others.
#[derive(Clone, Debug)]
pub(crate) struct Authenticate(pub(crate) Arc<AuthenticationPolicy>);

impl<S> Layer<S> for Authenticate {
    type Service = Authenticated<S>;

    fn layer(&self, service: S) -> Authenticated<S> {
        Authenticated {
            service,
            policy: Arc::clone(&self.0),
        }
    }
}

/// A service behind a policy.
#[derive(Clone, Debug)]
pub(crate) struct Authenticated<S> {
    service: S,
    policy: Arc<AuthenticationPolicy>,
}

impl<S, A> Service<Request<A>> for Authenticated<S>
where
    S: Service<Request<A>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let principal = match request.extensions().get::<Peer>() {
            Some(peer) => self.policy.principal(peer),
            None => Err("the connection does not say whose it is".into()),
        };
        match principal {
            Ok(principal) => {
                request.extensions_mut().insert(principal);
                Either::Left(self.service.call(request))
            }
            Err(reason) => {
                let refusal = Status::unauthenticated(reason).into_http();
                Either::Right(ready(Ok(refusal)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(json: &str) -> AuthenticationPolicy {
        serde_json::from_str(json).unwrap()
    }

    fn peer(principal: Principal) -> Peer {
        Peer { principal }
    }

    #[test]
    fn users_are_let_in_by_number() {
        let policy = policy(
            r#"{"any": {"policies": [{"peer_credentials": {"uids": [7], "gids": [9]}},
                                     {"deny": "go away"}]}}"#,
        );
        let user = |uid, gid| Principal::User { uid, gid };
        for known in [user(7, 1), user(1, 9)] {
            assert_eq!(policy.principal(&peer(known.clone())), Ok(known));
        }
        let refused = policy.principal(&peer(user(8, 1))).unwrap_err();
        assert_eq!(refused, "user 8 may not connect; go away");
        assert!(policy.principal(&peer(Principal::Anonymous)).is_err());
    }

    #[test]
    fn certificates_need_one_set_of_authorities() {
        let one = |pem: &str| {
            format!(
                r#"{{"tls_client_certificate": {{"client_certificate_authorities": "{pem}"}}}}"#
            )
        };
        assert!(policy(&one("A")).authorities().unwrap().is_some());
        let two = format!(r#"{{"any": {{"policies": [{}, {}]}}}}"#, one("A"), one("B"));
        assert!(policy(&two).authorities().is_err());
        assert!(
            policy(r#"{"tls_client_certificate": {}}"#)
                .authorities()
                .is_err()
        );
        assert!(policy(r#"{"allow": {}}"#).authorities().unwrap().is_none());
        let anonymous = policy(&one("A")).principal(&peer(Principal::Anonymous));
        assert!(anonymous.unwrap_err().contains("client certificate"));
    }

    #[test]
    fn principals_have_names() {
        let user = Principal::User { uid: 7, gid: 9 };
        assert!(user.is("user:7") && user.is("group:9"));
        assert!(!user.is("user:9") && !user.is("anonymous") && !user.is("certificate:7"));
        let names = ["ci".to_string(), "spiffe://farm/ci".to_string()];
        let certificate = Principal::Certificate(names.into());
        assert!(certificate.is("certificate:ci") && certificate.is("certificate:spiffe://farm/ci"));
        assert!(!certificate.is("user:ci") && !certificate.is("ci"));
        assert!(Principal::Anonymous.is("anonymous"));
    }
}
