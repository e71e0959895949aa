//! The live dashboard: one page with its style and script in it, made while compiling.
//!
//! The page asks `/api/v1/*` again and again and keeps what it draws; the server keeps nothing for it. Its policy
//! (Content Security Policy level 3) lets that one style and script in and nothing else, so that a text that a peer
//! chose could run nowhere even if the page put it in the wrong place.

use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use ring::digest::{SHA256, digest};

macro_rules! style {
    () => {
        include_str!("dashboard/style.css")
    };
}

/// One module: the parts see each other, and nothing else does.
macro_rules! script {
    () => {
        concat!(
            include_str!("dashboard/format.js"),
            include_str!("dashboard/rates.js"),
            include_str!("dashboard/charts.js"),
            include_str!("dashboard/lanes.js"),
            include_str!("dashboard/sensors.js"),
            include_str!("dashboard/panels.js"),
            include_str!("dashboard/main.js"),
        )
    };
}

const PAGE: &str = concat!(
    include_str!("dashboard/head.html"),
    "<style>",
    style!(),
    "</style>\n",
    include_str!("dashboard/body.html"),
    "<script type=\"module\">",
    script!(),
    "</script>\n",
);

static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |text: &str| BASE64.encode(digest(&SHA256, text.as_bytes()).as_ref());
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(style!()),
        hash(script!())
    );
    policy.try_into().expect("base64 and words make a header")
});

/// The answer of `/`.
pub(crate) async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, PAGE).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_for_nothing_but_the_api() {
        // Anything that a browser would load by itself: the policy forbids it, and it would be missing offline.
        for foreign in ["src=", "@import", "url(", "http:", "https:", "//cdn", "<base", "<form", "style=", "onclick="] {
            let found = PAGE.find(foreign).map(|at| &PAGE[at..(at + 60).min(PAGE.len())]);
            // The namespace of an SVG is a name, not an address.
            assert!(found.is_none_or(|text| text.starts_with("http://www.w3.org/2000/svg")), "{found:?}");
        }
        for unsafe_way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("] {
            assert!(!PAGE.contains(unsafe_way), "{unsafe_way}");
        }
        assert!(PAGE.len() < 64 * 1024, "{} bytes", PAGE.len());
    }
}
