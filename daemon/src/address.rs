//! Where a service is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The address of a gRPC service, to listen on or to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// `HOST:PORT` or `grpc://HOST:PORT`; `:PORT` is every address of this host.
    Tcp(String),
    /// `unix:PATH` or `unix://PATH`.
    Unix(PathBuf),
    /// `fd:N`, to listen on only: the socket inherited as descriptor N (3 or
    /// more), passed as `sd_listen_fds(3)` describes.
    Inherited(usize),
}

/// A string that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address: expected HOST:PORT, grpc://HOST:PORT, unix:PATH or fd:N")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let invalid = || AddressError(text.into());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err(invalid())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        if let Some(number) = text.strip_prefix("fd:") {
            return match number.parse() {
                Ok(number) if number >= 3 => Ok(Self::Inherited(number)),
                _ => Err(invalid()),
            };
        }
        let text = text.strip_prefix("grpc://").unwrap_or(text);
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.contains(['/', '@', ' '])
            || (host.contains(':') && !bracketed)
            || port.parse::<u16>().is_err()
        {
            return Err(invalid());
        }
        Ok(Self::Tcp(text.into()))
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host_port) => write!(f, "grpc://{host_port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inherited(number) => write!(f, "fd:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_printed() {
        for (text, printed) in [
            ("127.0.0.1:80", "grpc://127.0.0.1:80"),
            ("grpc://farm:8980", "grpc://farm:8980"),
            ("[::1]:80", "grpc://[::1]:80"),
            ("unix:/run/a b", "unix:/run/a b"),
            ("unix:///run/a", "unix:/run/a"),
            (":8980", "grpc://:8980"),
            ("fd:3", "fd:3"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), printed);
            assert_eq!(printed.parse::<Address>(), Ok(address));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "host",
            "host:",
            "host:x",
            "::1:80",
            "http://h:1",
            "unix:",
            "fd:",
            "fd:2",
            "h:70000",
            "grpcs://h:1",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
