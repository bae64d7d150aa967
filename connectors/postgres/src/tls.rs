//! Encryption as libpq's `sslmode` defines it, by rustls.
//!
//! `prefer` and `require` protect against listeners only, as in libpq: the certificate is looked at
//! from `verify-ca` on, or when an authority's certificate is configured.

use std::path::Path;
use std::sync::Arc;

use hutong_connectors_core::connection::{SslMode, Tls};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

/// What is wrong with the files of a TLS configuration.
#[derive(Debug, thiserror::Error)]
#[error("{property} cannot be used: {reason}")]
pub(crate) struct Error {
    property: &'static str,
    reason: String,
}

fn invalid(property: &'static str, reason: impl ToString) -> Error {
    Error {
        property,
        reason: reason.to_string(),
    }
}

/// Returns the configuration of a client, or `None` where the mode is `disable`. Reads the files.
pub(crate) fn client_config(tls: &Tls) -> Result<Option<ClientConfig>, Error> {
    let check = match (tls.mode, &tls.root_cert) {
        (SslMode::Disable, _) => return Ok(None),
        (SslMode::Prefer, _) | (SslMode::Require, None) => Check::Nothing,
        (SslMode::Require, Some(_)) | (SslMode::VerifyCa, _) => Check::Authority,
        (SslMode::VerifyFull, _) => Check::AuthorityAndName,
    };
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::new(check, tls.root_cert.as_deref(), &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid("database.sslmode", error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match (&tls.cert, &tls.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(read_certificates("database.sslcert", cert)?, read_key(key)?)
            .map_err(|error| invalid("database.sslcert", error))?,
        (Some(_), None) => return Err(invalid("database.sslcert", "database.sslkey is missing")),
        (None, Some(_)) => return Err(invalid("database.sslkey", "database.sslcert is missing")),
    };
    Ok(Some(config))
}

/// Returns why a handshake failed for good, if it did: the server's certificate was refused.
pub(crate) fn refused_certificate(error: &std::io::Error) -> Option<String> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match inner {
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => Some("the server's certificate does not name this host".to_owned()),
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            Some("the server's certificate is not signed by a trusted authority".to_owned())
        }
        rustls::Error::InvalidCertificate(reason) => {
            Some(format!("the server's certificate is refused: {reason}"))
        }
        _ => None,
    }
}

fn read_certificates(
    property: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = std::fs::read(path)
        .map_err(|error| invalid(property, format!("{}: {error}", path.display())))?;
    let certificates = rustls_pemfile::certs(&mut pem.as_slice())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| invalid(property, format!("{}: {error}", path.display())))?;
    if certificates.is_empty() {
        return Err(invalid(
            property,
            format!("{} holds no certificate", path.display()),
        ));
    }
    Ok(certificates)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    const PROPERTY: &str = "database.sslkey";
    let pem = std::fs::read(path)
        .map_err(|error| invalid(PROPERTY, format!("{}: {error}", path.display())))?;
    rustls_pemfile::private_key(&mut pem.as_slice())
        .map_err(|error| invalid(PROPERTY, format!("{}: {error}", path.display())))?
        .ok_or_else(|| invalid(PROPERTY, format!("{} holds no private key", path.display())))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Nothing,
    Authority,
    AuthorityAndName,
}

#[derive(Debug)]
struct Verifier {
    check: Check,
    provider: Arc<CryptoProvider>,
    /// Servers that sign for themselves: rustls refuses an authority as a server, OpenSSL and thus
    /// libpq accept it when it is itself the trusted certificate.
    trusted: Vec<CertificateDer<'static>>,
    chain: Option<Arc<WebPkiServerVerifier>>,
}

impl Verifier {
    fn new(
        check: Check,
        root_cert: Option<&Path>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        const PROPERTY: &str = "database.sslrootcert";
        let mut verifier = Self {
            check,
            provider: Arc::clone(provider),
            trusted: Vec::new(),
            chain: None,
        };
        if check == Check::Nothing {
            return Ok(verifier);
        }
        let mut roots = RootCertStore::empty();
        if let Some(path) = root_cert {
            verifier.trusted = read_certificates(PROPERTY, path)?;
            for certificate in &verifier.trusted {
                roots
                    .add(certificate.clone())
                    .map_err(|error| invalid(PROPERTY, error))?;
            }
        } else {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        let chain =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .build()
                .map_err(|error| invalid(PROPERTY, error))?;
        verifier.chain = Some(chain);
        Ok(verifier)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        let trusted_itself = self.trusted.iter().any(|known| known == end_entity);
        if !trusted_itself {
            let verified = chain.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            );
            // The name is looked at last, so a refused name means a trusted chain.
            match verified {
                Ok(_)
                | Err(rustls::Error::InvalidCertificate(
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. },
                )) => {}
                Err(error) => return Err(error),
            }
        }
        if self.check == Check::AuthorityAndName {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
