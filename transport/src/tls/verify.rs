//! Who may be at the other end.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use webpki::EndEntityCert;

use crate::model::Identity;

/// The names of a certificate that was verified.
pub(crate) fn identity(certificate: &CertificateDer<'_>) -> Identity {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Identity::default() };
    // A wildcard names nobody.
    let dns = certificate
        .valid_dns_names()
        .filter(|name| !name.contains('*'))
        .map(str::to_ascii_lowercase);
    Identity::new(dns.chain(certificate.valid_uri_names().map(str::to_owned)))
}

/// Certificates of registrars: from the authority, for serverAuth, with a name that they are known by (RFC 5352
/// section 9.2).
#[derive(Clone, Debug)]
pub(super) struct Registrars {
    roots: Arc<RootCertStore>,
    names: Vec<ServerName<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Registrars {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        names: Vec<ServerName<'static>>,
        provider: &CryptoProvider,
    ) -> Self {
        Self { roots, names, algorithms: provider.signature_verification_algorithms }
    }

    /// `addresses` count if there are no names to know registrars by.
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        addresses: &[ServerName<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let certificate = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        let accepted = if self.names.is_empty() { addresses } else { &self.names[..] };
        let mut verdict = Err(CertificateError::NotValidForName.into());
        for name in accepted {
            verdict = verify_server_name(&certificate, name);
            if verdict.is_ok() {
                break;
            }
        }
        verdict
    }
}

impl ServerCertVerifier for Registrars {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, std::slice::from_ref(server_name), now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Certificates of those who dial a registrar: from the authority, for clientAuth, and ...
#[derive(Debug)]
pub(super) struct Callers {
    any: Arc<dyn ClientCertVerifier>,
    /// ... a registrar's that is known by its name or by one of these addresses. `None`: anybody's who has a name.
    registrars: Option<(Registrars, Vec<ServerName<'static>>)>,
}

impl Callers {
    pub(super) fn anybody(any: Arc<dyn ClientCertVerifier>) -> Self {
        Self { any, registrars: None }
    }

    pub(super) fn registrars(
        any: Arc<dyn ClientCertVerifier>,
        registrars: Registrars,
        peers: Vec<IpAddr>,
    ) -> Self {
        let peers = peers.into_iter().map(|ip| ServerName::IpAddress(ip.into())).collect();
        Self { any, registrars: Some((registrars, peers)) }
    }
}

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.any.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.any.verify_client_cert(end_entity, intermediates, now)?;
        match &self.registrars {
            Some((registrars, peers)) => {
                registrars.verify(end_entity, intermediates, peers, now)?
            }
            // Nobody could say in which pools it may register.
            None if identity(end_entity).names().is_empty() => {
                return Err(CertificateError::ApplicationVerificationFailure.into());
            }
            None => {}
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.any.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.any.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.any.supported_verify_schemes()
    }
}
