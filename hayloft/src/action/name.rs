//! How a person names an action.

use std::fmt;
use std::str::FromStr;

use proto::{Digest, DigestFunction};

/// The blob that is meant: an Action, or a HistoricalExecuteResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name(pub Digest);

/// Why a text names no action.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is neither HASH-SIZE nor HASH/SIZE, nor a link that ends in blobs/FUNCTION/KIND/HASH-SIZE/"
)]
pub struct NameError(String);

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError(text.chars().take(300).collect());
        // Links have the form that Buildbarn's browser serves (bb-browser).
        let (function, digest) = match text.trim_end_matches('/').rsplit_once("blobs/") {
            Some((_, path)) => {
                let [function, "action" | "historical_execute_response", digest] =
                    path.split('/').collect::<Vec<_>>()[..]
                else {
                    return Err(wrong());
                };
                let mut all = DigestFunction::ALL.into_iter();
                let found = all.find(|one| one.name() == function);
                (Some(found.ok_or_else(wrong)?), digest)
            }
            None => (None, text),
        };
        let (hash, size) = digest.split_once(['-', '/']).ok_or_else(wrong)?;
        let function = match function {
            Some(function) => function,
            None => DigestFunction::from_wire(0, hash).map_err(|_| wrong())?,
        };
        let size = size.parse().map_err(|_| wrong())?;
        Ok(Self(
            Digest::new(function, hash, size).map_err(|_| wrong())?,
        ))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_and_links_of_the_browser_name_actions() {
        let digest = Digest::of(DigestFunction::Sha256, b"action");
        let hash = digest.hash();
        for text in [
            format!("{hash}-6"),
            format!("{hash}/6"),
            format!("http://browser/some/prefix/main/blobs/sha256/action/{hash}-6/"),
            format!("http://browser/blobs/sha256/historical_execute_response/{hash}-6"),
        ] {
            assert_eq!(text.parse::<Name>().unwrap(), Name(digest), "{text}");
        }
        let blake3 = Digest::of(DigestFunction::Blake3, b"action");
        let link = format!("http://b/blobs/blake3/action/{blake3}/");
        assert_eq!(link.parse::<Name>().unwrap(), Name(blake3));
        for text in [
            String::new(),
            hash.clone(),
            format!("{hash}-x"),
            format!("{}-6", &hash[1..]),
            format!("http://b/blobs/sha256/tree/{hash}-6/"),
            format!("http://b/blobs/md5/action/{hash}-6/"),
        ] {
            text.parse::<Name>().unwrap_err();
        }
    }
}
