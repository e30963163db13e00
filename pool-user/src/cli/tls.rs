//! Options of tools for the secure mode of the name service.

use std::path::PathBuf;

use dialtone_asap_client::TlsConfig;

/// Own certificate, and whom to trust; without them registrars are asked in the clear.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TlsArgs {
    /// Secure mode: own certificate (PEM); registrars are dialled by TLS, at TCP port 3864 unless another one is given
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_authority"])]
    tls_certificate: Option<PathBuf>,
    /// Key of the own certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Certificate of the authority that registrars have theirs from (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_authority: Option<PathBuf>,
    /// DNS name that a registrar's certificate has to have, instead of its address; may be repeated
    #[arg(long, value_name = "NAME", requires = "tls_certificate")]
    tls_registrar_name: Vec<String>,
}

impl TlsArgs {
    /// What they say, if they were given.
    pub fn config(&self) -> Option<TlsConfig> {
        Some(TlsConfig {
            certificate: self.tls_certificate.clone()?,
            key: self.tls_key.clone()?,
            authority: self.tls_authority.clone()?,
            registrar_names: self.tls_registrar_name.clone(),
            ..TlsConfig::default()
        })
    }
}
