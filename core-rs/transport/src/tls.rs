//! TLS 1.3 and nothing older (RFC 8446), by rustls and ring.
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// Why certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadPem(String);

/// Certificate chain and key of the server, and the authority that its callers' certificates must come from.
pub struct Pem {
    pub certificates: Vec<u8>,
    pub key: Vec<u8>,
    /// None: callers need no certificate.
    pub client_authorities: Option<Vec<u8>>,
}

impl Pem {
    /// Refuses what does not read, names no certificate, or does not belong together.
    pub fn acceptor(&self) -> Result<TlsAcceptor, BadPem> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(tls)?;
        let builder = match &self.client_authorities {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(pem, "the client authorities")? {
                    roots.add(authority).map_err(tls)?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(tls)?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(tls)?;
        let chain = certificates(&self.certificates, "the server's certificates")?;
        let mut config = builder.with_single_cert(chain, key).map_err(tls)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, BadPem> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(tls)?;
    if found.is_empty() {
        return Err(BadPem(format!("{what}: no certificate in PEM")));
    }
    Ok(found)
}

fn tls(error: impl std::fmt::Display) -> BadPem {
    BadPem(error.to_string())
}
