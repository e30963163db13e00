//! What a certificate shall say.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, SanType};

use crate::Error;

const DAY: Duration = Duration::from_secs(86_400);

/// Clocks differ: a certificate is good a little before it was made.
const EARLIER: Duration = Duration::from_secs(3_600);

/// Whom a certificate names, and for how long.
#[derive(Clone, Debug)]
pub struct Request {
    /// DNS names and URIs; the first is who its owner is to a registrar.
    pub names: Vec<String>,
    pub ips: Vec<IpAddr>,
    /// May answer as a registrar, too.
    pub registrar: bool,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Request {
    /// For this name, from now on.
    #[expect(clippy::disallowed_methods, reason = "certificates begin and end in real time")]
    pub fn new(name: impl Into<String>, days: u32) -> Self {
        let now = SystemTime::now();
        Self {
            names: vec![name.into()],
            ips: Vec::new(),
            registrar: false,
            not_before: now - EARLIER,
            not_after: now + days * DAY,
        }
    }

    /// For a registrar at this address.
    pub fn registrar(name: impl Into<String>, ip: IpAddr, days: u32) -> Self {
        Self { ips: vec![ip], registrar: true, ..Self::new(name, days) }
    }

    pub(crate) fn params(&self) -> Result<CertificateParams, Error> {
        // Registrars may be known by a wildcard. Who dials them is known by a name, and needs one.
        if !self.registrar
            && let Some(name) = self.names.iter().find(|name| name.contains('*'))
        {
            let reason =
                "a wildcard says nobody's name; only registrars can have one (--registrar)";
            return Err(Error::Name { name: name.clone(), reason });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = self.names.first() {
            params.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        for name in &self.names {
            params.subject_alt_names.push(subject(name)?);
        }
        params.subject_alt_names.extend(self.ips.iter().copied().map(SanType::IpAddress));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if self.registrar {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.not_before = self.not_before.into();
        params.not_after = self.not_after.into();
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

/// A DNS name, or a URI, which has a scheme and a colon.
fn subject(name: &str) -> Result<SanType, Error> {
    let wrong = |reason| Error::Name { name: name.to_owned(), reason };
    if !name.is_ascii() {
        return Err(wrong("write it in its ASCII form (xn--…)"));
    }
    if name.len() > 253 {
        return Err(wrong("it is longer than 253 characters"));
    }
    let text = || name.try_into().map_err(Error::from);
    if let Some((scheme, rest)) = name.split_once(':') {
        let letters = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        let scheme_is_right =
            scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(letters);
        if !scheme_is_right || rest.is_empty() || !rest.chars().all(|c| c.is_ascii_graphic()) {
            return Err(wrong("it is no URI"));
        }
        return Ok(SanType::URI(text()?));
    }
    if name.parse::<IpAddr>().is_ok() {
        return Err(wrong("an address is no name; give it with --ip"));
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    // A wildcard is a whole label, the first.
    let labels = name.strip_prefix("*.").unwrap_or(name);
    if labels.split('.').all(label) {
        Ok(SanType::DnsName(text()?))
    } else {
        Err(wrong("it is no DNS name"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_names_or_uris() {
        for right in [
            "proxy-1.example.org",
            "localhost",
            "urn:dialtone:proxy-1",
            "spiffe://example.org/proxy",
            "*.example.org",
        ] {
            assert!(subject(right).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "a..b",
            "-a",
            "192.0.2.1",
            "bücher.example",
            "a b",
            "::1",
            "urn:",
            "1x:y",
            "*",
            "*a.example.org",
            "a.*.org",
        ] {
            assert!(subject(wrong).is_err(), "{wrong}");
        }
        assert!(subject(&"a".repeat(300)).is_err());
    }

    #[test]
    fn wildcards_are_for_registrars() {
        let request = Request::new("*.example.org", 1);
        assert!(matches!(request.params(), Err(Error::Name { .. })));
        assert!(Request { registrar: true, ..request }.params().is_ok());
    }
}
