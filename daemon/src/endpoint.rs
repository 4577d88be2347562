//! Where a program serves.

use std::fmt;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::Address;

/// A place to serve, as configurations have it: an address, or, as in Buildbarn's
/// files, a table (bb-storage, `pkg/proto/configuration/grpc`, `…/http/server`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Addresses to listen on.
    pub listen_addresses: Vec<Address>,
    /// Paths of unix sockets to listen on.
    pub listen_paths: Vec<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    listen_addresses: Vec<Address>,
    #[serde(default)]
    listen_paths: Vec<PathBuf>,
}

impl Endpoint {
    /// Every address to listen on.
    pub fn addresses(&self) -> impl Iterator<Item = Address> {
        let paths = self.listen_paths.iter().cloned().map(Address::Unix);
        self.listen_addresses.iter().cloned().chain(paths)
    }
}

impl From<Address> for Endpoint {
    fn from(address: Address) -> Self {
        Self {
            listen_addresses: vec![address],
            ..Self::default()
        }
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
                text.parse::<Address>()
                    .map(Endpoint::from)
                    .map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                if table.listen_addresses.is_empty() && table.listen_paths.is_empty() {
                    return Err(de::Error::custom("there is no address to listen on"));
                }
                Ok(Endpoint {
                    listen_addresses: table.listen_addresses,
                    listen_paths: table.listen_paths,
                })
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
}
