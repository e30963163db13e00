//! Names.

use proptest::prelude::*;

use super::{NAME, encode};

#[test]
fn names() {
    for (call_id, name) in [
        ("a84b4c76e66710@pc33.atlanta.com", "a84b4c76e66710@pc33.atlanta.com"),
        ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
        (".hidden", "%2Ehidden"),
        ("-rf", "%2Drf"),
        ("a b\n\0", "a%20b%0A%00"),
        ("100%", "100%25"),
        ("", ""),
    ] {
        assert_eq!(encode(call_id.as_bytes()), name);
    }
}

proptest! {
    /// One file name, whatever the Call-ID is.
    #[test]
    fn any_call_id(call_id in prop::collection::vec(any::<u8>(), 0..400)) {
        let name = encode(&call_id);
        prop_assert!(name.len() < NAME + 3);
        prop_assert!(!name.starts_with(['.', '-']));
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.@%".contains(c);
        prop_assert!(name.chars().all(plain), "{}", name);
    }
}
