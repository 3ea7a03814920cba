//! The name that was meant, for hints in errors.
//!
//! # Source
//! Distance of Damerau and Levenshtein: letters added, taken, changed, or two that are next to each other swapped.
//!
//! # Not here
//! The hint itself: whoever makes the error knows what it names.

/// The candidate most like `name`, if one is near enough to be what was meant.
///
/// Near is one third of the letters changed, or the same letters in another case.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let most = (name.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_letters_may_differ() {
        let known = ["orders", "customers", "ORDERS_OLD"];
        assert_eq!(nearest("order", known), Some("orders"));
        assert_eq!(nearest("Odrers", known), Some("orders"));
        assert_eq!(nearest("orders_old", known), Some("ORDERS_OLD"));
        assert_eq!(nearest("suppliers", known), None);
        assert_eq!(nearest("x", []), None);
    }
}
