//! What a storage says is missing, put in order.

use proto::Digest;

use crate::store::DigestSet;

/// Those of `told` that are in `page`, in its order. Most storages answer in the order in
/// which they were asked, but REv2 does not say that they must.
pub(super) fn in_order_of(page: &[Digest], told: Vec<Digest>) -> Vec<Digest> {
    let mut asked = page.iter();
    if told.iter().all(|digest| asked.any(|asked| asked == digest)) {
        return told;
    }
    let told: DigestSet = told.into_iter().collect();
    let mut missing = page.to_vec();
    missing.retain(|digest| told.contains(digest));
    missing
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::DigestFunction;

    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::of(DigestFunction::Sha256, &[number])
    }

    proptest! {
        /// Whatever the order, and whatever else the storage names, as often as it likes.
        #[test]
        fn what_is_missing_comes_in_the_order_of_the_question(
            page in prop::collection::hash_set(0..40u8, 0..20),
            told in prop::collection::vec(0..40u8, 0..40),
        ) {
            let digests = |numbers: Vec<&u8>| numbers.into_iter().copied().map(digest).collect();
            let asked: Vec<_> = digests(page.iter().collect());
            let expected: Vec<_> = digests(page.iter().filter(|number| told.contains(number)).collect());
            prop_assert_eq!(in_order_of(&asked, digests(told.iter().collect())), expected);
        }

        #[test]
        fn an_answer_in_order_is_left_as_it_is(
            page in prop::collection::vec((any::<u8>(), any::<bool>()), 0..20),
        ) {
            let asked: Vec<_> = page.iter().map(|(number, _)| digest(*number)).collect();
            let told = page.iter().filter(|(_, missing)| *missing);
            let told: Vec<_> = told.map(|(number, _)| digest(*number)).collect();
            prop_assert_eq!(in_order_of(&asked, told.clone()), told);
        }
    }
}
