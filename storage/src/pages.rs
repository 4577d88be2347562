//! Blobs that are read a few at a time.

use std::collections::VecDeque;

use proto::Digest;

/// Takes the first of what is still to be read: one, and further ones up to so many
/// digests and so many bytes together.
pub(crate) fn take(rest: &mut VecDeque<Digest>, count: usize, bytes: u64) -> Vec<Digest> {
    let mut some = Vec::new();
    let mut total: u64 = 0;
    while let Some(digest) = rest.front() {
        total = total.saturating_add(digest.size());
        if !some.is_empty() && (total > bytes || some.len() >= count) {
            break;
        }
        some.extend(rest.pop_front());
    }
    some
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::DigestFunction;

    #[test]
    fn a_page_is_of_so_many_and_so_much_but_never_empty() {
        let sized = |size| Digest::new(DigestFunction::Sha256, &"0".repeat(64), size).unwrap();
        let mut rest: VecDeque<Digest> =
            [9, 1, 2, 3, 0, 0, u64::from(u32::MAX), 1].map(sized).into();
        let mut sizes = Vec::new();
        while !rest.is_empty() {
            let page = take(&mut rest, 3, 4);
            sizes.push(page.iter().map(Digest::size).collect::<Vec<_>>());
        }
        let whole = u64::from(u32::MAX);
        assert_eq!(
            sizes,
            [vec![9], vec![1, 2], vec![3, 0, 0], vec![whole], vec![1]]
        );
    }
}
