//! Pages of other sites that may call: those of the configured origins, with what they send of themselves.
//!
//! Never with what a browser adds by itself, cookies or a client certificate: whoever may call from a page shows a token.

use std::time::Duration;

use axum::Router;
use http::{
    HeaderName, HeaderValue, Method, Uri,
    header::{ACCEPT, ALLOW, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may keep what it was told.
const KEPT: Duration = Duration::from_hours(1);

/// Origins, such as `https://console.example.org`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<HeaderValue>);

impl Origins {
    /// Reads them, separated by commas; or tells which one is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let given = text.split(',').map(str::trim).filter(|one| !one.is_empty());
        given.map(origin).collect::<Result<_, _>>().map(Self)
    }

    /// Lets their pages call what is served.
    pub(super) fn let_in(&self, served: Router) -> Router {
        if self.0.is_empty() {
            return served;
        }
        let of_grpc = ["grpc-status", "grpc-message", "grpc-status-details-bin"];
        let exposed = of_grpc.map(HeaderName::from_static);
        let of_calls = [
            "grpc-timeout",
            "x-grpc-web",
            "x-user-agent",
            "traceparent",
            "tracestate",
            "last-event-id",
        ];
        let allowed = of_calls.map(HeaderName::from_static);
        served.layer(
            CorsLayer::new()
                .allow_origin(AllowOrigin::list(self.0.clone()))
                .allow_methods([Method::GET, Method::PUT, Method::POST, Method::DELETE])
                .allow_headers(
                    allowed
                        .into_iter()
                        .chain([ACCEPT, AUTHORIZATION, CONTENT_TYPE])
                        .collect::<Vec<_>>(),
                )
                .expose_headers(
                    exposed
                        .into_iter()
                        .chain([ALLOW, RETRY_AFTER, WWW_AUTHENTICATE])
                        .collect::<Vec<_>>(),
                )
                .max_age(KEPT),
        )
    }
}

/// Reads an origin as browsers write it (RFC 6454, 6.2).
fn origin(text: &str) -> Result<HeaderValue, String> {
    let no_origin =
        || format!("`{text}` is no origin; write it as browsers do, such as `https://console.example.org`");
    let uri: Uri = text.parse().map_err(|_unreadable| no_origin())?;
    let is_origin = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri
            .host()
            .is_some_and(|host| !host.is_empty() && !host.contains('*'))
        && uri
            .authority()
            .is_some_and(|authority| !authority.as_str().contains('@'))
        && text == text.to_ascii_lowercase()
        && !text.ends_with('/')
        && uri.path_and_query().is_none_or(|rest| rest == "/");
    let value = HeaderValue::from_str(text).ok().filter(|_| is_origin);
    value.ok_or_else(no_origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_browsers_write_them() {
        let two = Origins::parse("https://console.example.org, http://localhost:5173").unwrap();
        assert_eq!(two.0, ["https://console.example.org", "http://localhost:5173"]);
        assert_eq!(Origins::parse("").unwrap(), Origins::default());
        for hostile in [
            "*",
            "https://*.example.org",
            "null",
            "example.org",
            "https://example.org/",
            "https://example.org/a",
            "https://Example.org",
            "ftp://example.org",
            "https://user@example.org",
            "https://example.org?a",
        ] {
            assert!(Origins::parse(hostile).is_err(), "{hostile}");
        }
    }
}
