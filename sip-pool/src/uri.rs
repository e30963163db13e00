//! Pool URIs: names of pools in SIP, so that any element of the pool can serve them.

/// Top of every pool's name; RFC 2606 section 2 keeps it out of DNS.
pub const SUFFIX: &str = ".pool.invalid";

/// `sip:COOKIE@<pool>.pool.invalid;lr`, for a Record-Route or Route.
#[must_use]
pub fn pool_uri(pool: &str, cookie: &str) -> String {
    format!("sip:{cookie}@{pool}{SUFFIX};lr")
}

/// The pool named by the host of a URI, in the host's own spelling.
#[must_use]
pub fn pool_of_host(host: &[u8]) -> Option<&[u8]> {
    let split = host.len().checked_sub(SUFFIX.len()).filter(|split| *split > 0)?;
    let (pool, suffix) = host.split_at(split);
    (suffix.eq_ignore_ascii_case(SUFFIX.as_bytes()) && !pool.contains(&b'.')).then_some(pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_uri_names_its_pool() {
        assert_eq!(pool_uri("sip-proxy", "abc"), "sip:abc@sip-proxy.pool.invalid;lr");
        assert_eq!(pool_of_host(b"sip-proxy.POOL.invalid"), Some(b"sip-proxy".as_slice()));
        for host in
            [b".pool.invalid".as_slice(), b"pool.invalid", b"a.b.pool.invalid", b"sip-proxy", b""]
        {
            assert_eq!(pool_of_host(host), None);
        }
    }
}
