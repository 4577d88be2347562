//! Where a program serves, and whom.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::authenticate::AuthenticationPolicy;
use crate::listener::{MAXIMUM_CALLS, Reception, Socket, bind};
use crate::tls::ServerTls;
use crate::{Address, Error, Listener};

/// A place to serve, as configurations have it: an address, or, as in Buildbarn's
/// files, a table (bb-storage, `pkg/proto/configuration/grpc`, `…/http/server`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct Endpoint {
    /// Addresses to listen on.
    #[serde(default)]
    pub listen_addresses: Vec<Address>,
    /// Paths of unix sockets to listen on.
    #[serde(default)]
    pub listen_paths: Vec<PathBuf>,
    /// What is shown to those who connect by TCP. Absent: they are talked to in the
    /// clear.
    #[serde(default)]
    pub tls: Option<ServerTls>,
    /// Who may connect. Anybody.
    #[serde(default)]
    pub authentication_policy: AuthenticationPolicy,
    /// A name that the health service tells about as it does of the empty one.
    #[serde(default)]
    pub health_check_service: Option<String>,
    /// How many connections each listening socket may have at a time; further ones
    /// are closed at once. Absent: any number.
    #[serde(default)]
    pub maximum_connections: Option<u32>,
    /// How many calls one connection may have under way; further ones wait. A worker's
    /// slots share a connection and each has a call that waits. 4096.
    #[serde(default = "maximum_calls")]
    pub maximum_calls_per_connection: u32,
}

fn maximum_calls() -> u32 {
    MAXIMUM_CALLS
}

/// What is spoken there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC: HTTP/2.
    Grpc,
    /// HTTP/1.1.
    Http,
}

impl Endpoint {
    /// Every address to listen on.
    pub fn addresses(&self) -> impl Iterator<Item = Address> {
        let paths = self.listen_paths.iter().cloned().map(Address::Unix);
        self.listen_addresses.iter().cloned().chain(paths)
    }

    /// Makes its listening sockets, and reads the certificates that they show.
    ///
    /// # Errors
    /// An address cannot be listened on, a file cannot be used, or the table
    /// contradicts itself.
    pub fn bind(&self, protocol: Protocol) -> Result<Vec<Socket>, Error> {
        let authorities = self
            .authentication_policy
            .authorities()
            .map_err(Error::Policy)?;
        let protocol = match protocol {
            Protocol::Grpc => "h2",
            Protocol::Http => "http/1.1",
        };
        let tls = match (&self.tls, authorities) {
            (Some(tls), clients) => Some(Arc::new(tls.load(clients, protocol)?)),
            (None, Some(_)) => return Err(Error::Policy("certificates need tls".into())),
            (None, None) => None,
        };
        let reception = Reception {
            tls,
            policy: Arc::new(self.authentication_policy.clone()),
            maximum_connections: self.maximum_connections.map_or_else(
                || Reception::default().maximum_connections,
                |most| most as usize,
            ),
            maximum_calls: self.maximum_calls_per_connection.max(1),
            health_check_service: self.health_check_service.clone(),
        };
        self.addresses()
            .map(|address| {
                let mut socket = bind(&address)?;
                socket.reception = reception.clone();
                Ok(socket)
            })
            .collect()
    }

    /// As [`bind`](Self::bind) for gRPC, in the event loop that runs.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn listen(&self) -> Result<Vec<Listener>, Error> {
        self.bind(Protocol::Grpc)?
            .into_iter()
            .zip(self.addresses())
            .map(|(socket, address)| {
                Listener::try_from(socket).map_err(|reason| Error::Listen { address, reason })
            })
            .collect()
    }
}

impl From<Address> for Endpoint {
    fn from(address: Address) -> Self {
        Self {
            listen_addresses: vec![address],
            listen_paths: Vec::new(),
            tls: None,
            authentication_policy: AuthenticationPolicy::default(),
            health_check_service: None,
            maximum_connections: None,
            maximum_calls_per_connection: MAXIMUM_CALLS,
        }
    }
}

impl std::str::FromStr for Endpoint {
    type Err = crate::address::AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Address>().map(Self::from)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Endpoint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or a table with listen_addresses")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Endpoint, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
                // The derived one, which takes a table alone.
                let table = Endpoint::deserialize(MapAccessDeserializer::new(map))?;
                if table.addresses().next().is_none() {
                    return Err(de::Error::custom("there is no address to listen on"));
                }
                Ok(table)
            }
        }
        deserializer.deserialize_any(Form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Endpoint, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn an_address_and_a_table_mean_the_same() {
        let short = read(r#""127.0.0.1:80""#).unwrap();
        assert_eq!(
            short,
            read(r#"{"listen_addresses": ["127.0.0.1:80"]}"#).unwrap()
        );
        let printed = serde_json::to_string(&short).unwrap();
        assert_eq!(read(&printed).unwrap(), short);
        let paths = read(r#"{"listen_paths": ["/run/s"]}"#).unwrap();
        let listed: Vec<_> = paths.addresses().map(String::from).collect();
        assert_eq!(listed, ["unix:/run/s"]);
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for bad in ["{}", r#"{"addresses": []}"#, "3", r#""nowhere""#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn certificates_of_clients_need_tls() {
        let endpoint = read(
            r#"{"listen_addresses": ["127.0.0.1:0"], "authentication_policy":
                {"tls_client_certificate": {"client_certificate_authorities_path": "/a"}}}"#,
        );
        let refused = endpoint.unwrap().bind(Protocol::Grpc).unwrap_err();
        assert!(refused.to_string().contains("tls"), "{refused}");
    }
}
