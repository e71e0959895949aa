//! Who may ask: a certificate that shows who we are, a token that shows who they are, both read again when they change.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use corelane_files::{LoadError, Reloaded, read_file};
use corelane_tls::CertificateSource;
use data_encoding::BASE64_NOPAD;
use jiff::Timestamp;
use subtle::ConstantTimeEq;
use tokio::select;
use tokio::time::{MissedTickBehavior, interval};

use crate::ControlHandle;

/// How the HTTP port is protected: not at all by default.
#[derive(Clone, Debug, Default)]
pub struct Protection {
    /// HTTPS alone, with this certificate.
    pub certificates: Option<Arc<CertificateSource>>,
    /// Everything but `/healthz` and `/readyz` needs this token.
    pub token: Option<Arc<TokenSource>>,
    /// Names besides those of the loopback and IP literals that a port without a token answers to. When there is none, a
    /// port that others can reach answers to every name.
    pub hosts: Vec<String>,
}

impl Protection {
    /// Reads again what changed, and everything when asked to. For ever.
    pub(crate) async fn keep_fresh(self, handle: ControlHandle) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = select! {
                () = handle.reload_asked() => true,
                _ = looks.tick() => false,
            };
            if let Some(source) = &self.certificates {
                match if asked { Some(source.reload()) } else { source.reload_if_changed() } {
                    Some(Ok(())) => {
                        let expires = Timestamp::from_second(source.expires_unix_seconds()).unwrap_or(Timestamp::MAX);
                        tracing::info!(%expires, "read the control port's certificate again");
                    }
                    Some(Err(error)) => tracing::error!("--control-tls-cert: {error}; the one in use stays"),
                    None => (),
                }
            }
            if let Some(source) = &self.token {
                match if asked { Some(source.reload()) } else { source.reload_if_changed() } {
                    Some(Ok(())) => tracing::info!("read the control port's token again"),
                    Some(Err(error)) => tracing::error!("--control-token-file: {error}; the one in use stays"),
                    None => (),
                }
            }
        }
    }
}

/// Between two looks at the files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The token, from the first line of a file.
pub struct TokenSource {
    file: Reloaded<Token>,
}

struct Token(Vec<u8>);

impl TokenSource {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or holds no token.
    pub fn load(path: PathBuf) -> Result<Self, LoadError> {
        Ok(Self { file: Reloaded::load(vec![path], token)? })
    }

    fn reload(&self) -> Result<(), LoadError> {
        self.file.reload()
    }

    fn reload_if_changed(&self) -> Option<Result<(), LoadError>> {
        self.file.reload_if_changed()
    }

    /// Whether a request with these headers has the token: as bearer token, or as password of any user.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(given) = headers.get(header::AUTHORIZATION).and_then(|value| given_token(value.as_bytes())) else {
            return false;
        };
        // Takes as long for a guess that begins right as for any other of that length.
        self.file.current().0.ct_eq(&given).into()
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

fn token(paths: &[PathBuf]) -> Result<Token, LoadError> {
    let [path] = paths else { unreachable!("a token has one file") };
    let bytes = read_file(path)?;
    let token = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii();
    if token.is_empty() {
        return Err(LoadError::new(
            path,
            "its first line is empty; write a token there, as `openssl rand -hex 32` makes",
        ));
    }
    // What a header can carry, and a scheme leaves in one piece.
    if !token.iter().all(u8::is_ascii_graphic) {
        return Err(LoadError::new(
            path,
            "the token has blanks or characters that are not ASCII; use letters and digits",
        ));
    }
    Ok(Token(token.to_owned()))
}

/// The token in an `Authorization` header: RFC 6750 section 2.1, RFC 7617 section 2.
fn given_token(credentials: &[u8]) -> Option<Vec<u8>> {
    let blank = credentials.iter().position(|&byte| byte == b' ')?;
    let (scheme, given) = (&credentials[..blank], credentials[blank..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"Bearer") {
        return Some(given.to_owned());
    }
    if !scheme.eq_ignore_ascii_case(b"Basic") {
        return None;
    }
    let unpadded = given.iter().rposition(|&byte| byte != b'=').map_or(0, |last| last + 1);
    let pair = BASE64_NOPAD.decode(&given[..unpadded]).ok()?;
    let colon = pair.iter().position(|&byte| byte == b':')?;
    Some(pair[colon + 1..].to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_token_is_taken_as_bearer_and_as_password() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), " s3cret:x \nsecond line\n").unwrap();
        let source = TokenSource::load(file.path().to_owned()).unwrap();
        let admits = |credentials: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, credentials.try_into().unwrap());
            source.admits(&headers)
        };
        let basic = |pair: &str| format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes()));
        for good in ["Bearer s3cret:x", "bearer   s3cret:x", &basic("anybody:s3cret:x"), &basic(":s3cret:x")] {
            assert!(admits(good.as_bytes()), "{good}");
        }
        assert!(admits(basic("a:s3cret:x").trim_end_matches('=').as_bytes()), "padding may be left out");
        for bad in [
            "Bearer s3cret:y",
            "Bearer s3cret:",
            "Bearer s3cret:xx",
            "Bearer",
            "Bearer ",
            "s3cret:x",
            "Digest s3cret:x",
            "Bearers3cret:x",
            "Basic s3cret:x",
            "Basic ====",
            "",
            &basic("s3cret:x"),
            &basic("a:b:s3cret:x"),
        ] {
            assert!(!admits(bad.as_bytes()), "{bad}");
        }
        assert!(!admits(b"Bearer \xff"));
        assert!(!source.admits(&HeaderMap::new()));
        assert!(!format!("{source:?}").contains("s3cret"));
    }

    #[test]
    fn a_file_without_a_token_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, why) in [("", "is empty"), (" \ntoken\n", "is empty"), ("two words", "blanks"), ("tök", "not ASCII")]
        {
            fs::write(file.path(), text).unwrap();
            let error = TokenSource::load(file.path().to_owned()).unwrap_err().to_string();
            assert!(error.starts_with(file.path().to_str().unwrap()) && error.contains(why), "{error}");
        }
    }
}
