//! Lists that come page by page.
//!
//! A page begins after the last entry of the one before, whether that is still there
//! or not (Buildbarn's `start_after`). What is on a page is the scheduler's choice: it
//! may hold less than is asked for.

use anyhow::{Result, bail};
use proto::wire::buildqueuestate::PaginationInfo;
use tonic::Status;

use super::said;

/// How much is asked for at a time. Operations that are done carry their results.
const PAGE: u32 = 200;

/// One page.
pub struct Page<T> {
    /// What is on it.
    pub entries: Vec<T>,
    /// Where it is in the list.
    pub info: Option<PaginationInfo>,
}

/// Follows a list until `limit` entries that are wanted are found, or to its end.
/// `ask` is given the last entry of the page before and how much to ask for.
///
/// # Errors
/// The scheduler cannot be asked, or gives the same page again and again.
pub async fn follow<T: PartialEq + Clone>(
    limit: usize,
    mut ask: impl AsyncFnMut(Option<&T>, u32) -> Result<Page<T>, Status>,
    wanted: impl Fn(&T) -> bool,
) -> Result<Found<T>> {
    let mut found = Found {
        entries: Vec::new(),
        more: false,
    };
    let mut last = None;
    loop {
        let page = ask(last.as_ref(), PAGE).await;
        let page = page.map_err(|status| said("cannot list", &status))?;
        let Some(end) = page.entries.last().cloned() else {
            return Ok(found);
        };
        if last.as_ref() == Some(&end) {
            bail!("the scheduler gives the same page again");
        }
        let count = page.entries.len();
        for entry in page.entries.into_iter().filter(&wanted) {
            if found.entries.len() == limit {
                found.more = true;
                return Ok(found);
            }
            found.entries.push(entry);
        }
        let is_last = match page.info {
            Some(info) => u64::from(info.start_index) + count as u64 >= info.total_entries.into(),
            None => count < PAGE as usize,
        };
        if is_last {
            return Ok(found);
        }
        last = Some(end);
    }
}

/// What was found in a list.
pub struct Found<T> {
    /// What is wanted of it.
    pub entries: Vec<T>,
    /// Whether there is more of that.
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list of numbers whose server has pages of `most` entries.
    fn page(list: &[u32], most: usize, after: Option<&u32>, size: u32) -> Page<u32> {
        let start = after.map_or(0, |after| list.partition_point(|it| it <= after));
        let size = most.min(size as usize);
        Page {
            entries: list[start..].iter().copied().take(size).collect(),
            info: Some(PaginationInfo {
                start_index: start as u32,
                total_entries: list.len() as u32,
            }),
        }
    }

    #[tokio::test]
    async fn all_pages_are_followed_whatever_their_size() {
        let list: Vec<_> = (0..1000).collect();
        for most in [1, 7, 200, 5000] {
            for informs in [true, false] {
                // A server that says nothing of the whole must keep to what is asked for.
                if !informs && most < 200 {
                    continue;
                }
                let mut calls = 0;
                let ask = async |after: Option<&u32>, size: u32| {
                    calls += 1;
                    let mut page = page(&list, most, after, size);
                    page.info = page.info.filter(|_| informs);
                    Ok(page)
                };
                let found = follow(usize::MAX, ask, |_| true).await.unwrap();
                assert!(found.entries == list && !found.more);
                let pages = list.len().div_ceil(most.min(200));
                // Where nothing is said of the whole, a full page may be the last.
                assert!((pages..=pages + 1).contains(&calls), "{calls}");
            }
        }
    }

    #[tokio::test]
    async fn a_list_is_left_when_enough_is_found() {
        let list: Vec<_> = (0..1000).collect();
        let ask = async |after: Option<&u32>, size: u32| Ok(page(&list, 10, after, size));
        let even = |number: &u32| number.is_multiple_of(2);
        let found = follow(7, ask, even).await.unwrap();
        assert!(found.more);
        assert_eq!(found.entries, [0, 2, 4, 6, 8, 10, 12]);
        let ask = async |after: Option<&u32>, size: u32| Ok(page(&list, 10, after, size));
        let found = follow(500, ask, even).await.unwrap();
        assert!(!found.more && found.entries.len() == 500);
    }

    #[tokio::test]
    async fn a_server_that_does_not_go_on_is_left() {
        let ask = async |_: Option<&u32>, size: u32| Ok(page(&[1, 2, 3], 2, None, size));
        assert!(follow(usize::MAX, ask, |_| true).await.is_err());
    }
}
