//! The description of all three APIs in one OpenAPI document, generated from the handlers.
//!
//! Two of the APIs own `/`, so each path says by its `servers` on which listener it is. The schema
//! registry's own `/`, which answers `{}`, is left out, because a document has each path once.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::server::ServerBuilder;
use utoipa::openapi::{Components, InfoBuilder, OpenApi, OpenApiBuilder, SecurityRequirement};

use super::answer::Dialect;

/// Returns the document.
pub(crate) fn document() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Hutong")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Connectors (compatible with Kafka Connect), schemas (compatible with Confluent's \
             schema registry), and views. Every path needs a token: bearer, or HTTP Basic with the \
             token as password.",
        ))
        .build();
    let mut document = OpenApiBuilder::new()
        .info(info)
        .security(Some([
            SecurityRequirement::new::<_, [&str; 0], &str>("bearer", []),
            SecurityRequirement::new::<_, [&str; 0], &str>("basic", []),
        ]))
        .build();
    for (dialect, mut part) in super::described() {
        let port = match dialect {
            Dialect::Connect => 8083,
            Dialect::Registry => 8081,
            Dialect::Platform => 8080,
        };
        let server = ServerBuilder::new()
            .url(format!("http://localhost:{port}"))
            .description(Some(format!("{} API", dialect.name())))
            .build();
        for item in part.paths.paths.values_mut() {
            item.servers = Some(vec![server.clone()]);
        }
        document.merge(part);
    }
    let components = document.components.get_or_insert_with(Components::new);
    for (name, scheme) in [
        ("bearer", HttpAuthScheme::Bearer),
        ("basic", HttpAuthScheme::Basic),
    ] {
        let http = HttpBuilder::new().scheme(scheme).build();
        components.add_security_scheme(name, SecurityScheme::Http(http));
    }
    document
}
