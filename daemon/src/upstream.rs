//! Where a peer is, and how it is talked to.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::Address;
use crate::address::AddressError;
use crate::tls::ClientTls;

/// A peer, as configurations have it: an address, `grpcs://HOST:PORT` for one with
/// TLS whose certificate the system's authorities vouch for, or, as in Buildbarn's
/// files, a table (bb-storage, `pkg/proto/configuration/grpc`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// Where it is.
    pub address: Address,
    /// How it is known, and shown who calls. Absent: it is talked to in the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// A file with the token that calls carry (`authorization: Bearer`, RFC 6750), read
    /// again when it changes. Not to be had without TLS, but on unix sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearer_token_path: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    address: Upstream,
    #[serde(default)]
    tls: Option<ClientTls>,
    #[serde(default)]
    bearer_token_path: Option<PathBuf>,
}

impl From<Address> for Upstream {
    fn from(address: Address) -> Self {
        Self {
            address,
            tls: None,
            bearer_token_path: None,
        }
    }
}

impl FromStr for Upstream {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix("grpcs://") {
            None => Ok(text.parse::<Address>()?.into()),
            Some(rest) => Ok(Self {
                tls: Some(ClientTls::default()),
                ..format!("grpc://{rest}").parse::<Address>()?.into()
            }),
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.address, &self.tls) {
            (Address::Tcp(host_port), Some(_)) => write!(f, "grpcs://{host_port}"),
            (address, _) => write!(f, "{address}"),
        }
    }
}

impl<'de> Deserialize<'de> for Upstream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Upstream;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or a table with one")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Upstream, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Upstream, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Upstream {
                    address: table.address.address,
                    tls: table.tls.or(table.address.tls),
                    bearer_token_path: table.bearer_token_path,
                })
            }
        }
        deserializer.deserialize_any(Form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Upstream, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn an_address_and_a_table_mean_the_same() {
        let plain = read(r#""grpc://farm:8980""#).unwrap();
        assert_eq!(plain, read(r#"{"address": "farm:8980"}"#).unwrap());
        let tls = read(r#""grpcs://farm:8980""#).unwrap();
        assert_eq!(tls, read(r#"{"address": "farm:8980", "tls": {}}"#).unwrap());
        assert_eq!(tls.to_string(), "grpcs://farm:8980");
        let printed = serde_json::to_string(&tls).unwrap();
        assert_eq!(read(&printed).unwrap(), tls);
        for bad in [
            r#"{"adress": "farm:1"}"#,
            r#"{"tls": {}}"#,
            r#""farm""#,
            "1",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_is_not_sent_in_the_clear() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "secret\n").unwrap();
        let with = |address: &str| Upstream {
            bearer_token_path: Some(path.clone()),
            ..address.parse().unwrap()
        };
        let refused = with("farm:8980").connect().unwrap_err().to_string();
        assert!(refused.contains("bearer_token_path"), "{refused}");
    }
}
