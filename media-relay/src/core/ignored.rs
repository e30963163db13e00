//! What requests have asked for and did not get, counted by name.

use std::collections::BTreeMap;

/// Names come from the network: further ones are counted together.
const MAX_NAMES: usize = 64;
const MAX_LENGTH: usize = 64;
const OTHERS: &str = "others";

/// Counters by name.
#[derive(Clone, Debug, Default)]
pub struct IgnoredCounts(BTreeMap<Box<str>, u64>);

impl IgnoredCounts {
    pub(super) fn count(&mut self, name: &str) {
        if let Some(count) = self.0.get_mut(name) {
            *count += 1;
            return;
        }
        let name = if name.len() > MAX_LENGTH || self.0.len() >= MAX_NAMES { OTHERS } else { name };
        *self.0.entry(name.into()).or_default() += 1;
    }

    /// In alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, count)| (&**name, *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_in_number_and_length() {
        let mut ignored = IgnoredCounts::default();
        ignored.count("flags/pierce-NAT");
        ignored.count("flags/pierce-NAT");
        for n in 0..1_000 {
            ignored.count(&format!("flags/{n}"));
            ignored.count(&"x".repeat(65 + n));
        }
        let counts: BTreeMap<&str, u64> = ignored.iter().collect();
        assert_eq!(counts["flags/pierce-NAT"], 2);
        assert_eq!(counts.values().sum::<u64>(), 2_002);
        assert!(
            counts.len() <= MAX_NAMES + 1 && counts.keys().all(|name| name.len() <= MAX_LENGTH)
        );
    }
}
