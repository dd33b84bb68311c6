//! What many pollers are sent: written once, compressed at most once.

use std::fmt;
use std::io::Write as _;
use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use axum::http::header::ACCEPT_ENCODING;
use axum::http::{HeaderMap, HeaderValue};
use flate2::Compression;
use flate2::write::GzEncoder;

/// A body, plain and, once somebody has asked for that, compressed. Clones share it.
#[derive(Clone, Default)]
pub struct Body(Arc<Forms>);

#[derive(Default)]
struct Forms {
    plain: Bytes,
    gzip: OnceLock<Bytes>,
}

impl Body {
    /// As it is.
    #[must_use]
    pub fn plain(&self) -> Bytes {
        self.0.plain.clone()
    }

    /// Compressed, if that was done already.
    #[must_use]
    pub fn compressed(&self) -> Option<Bytes> {
        self.0.gzip.get().cloned()
    }

    /// Compressed; the first call does it, which takes some 5 ms for each MiB.
    #[must_use]
    pub fn gzip(&self) -> Bytes {
        let compress = || {
            // The bytes go from one process to another on the same host: speed counts, not the last percent.
            let mut encoder = GzEncoder::new(Vec::with_capacity(self.0.plain.len() / 8), Compression::fast());
            let written = encoder.write_all(&self.0.plain).and_then(|()| encoder.finish());
            // A vector takes everything.
            Bytes::from(written.unwrap_or_default())
        };
        self.0.gzip.get_or_init(compress).clone()
    }
}

impl From<Vec<u8>> for Body {
    fn from(plain: Vec<u8>) -> Self {
        Self(Arc::new(Forms {
            plain: plain.into(),
            gzip: OnceLock::new(),
        }))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.0.plain.len())
    }
}

/// Whether a client takes gzip (RFC 9110 section 12.5.3).
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let listed = |value: &HeaderValue| {
        let value = value.to_str().unwrap_or_default();
        value.split(',').any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            let is_gzip = parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip"));
            is_gzip && !parts.any(|part| part.replace(' ', "").trim_end_matches(['0', '.']) == "q=")
        })
    };
    headers.get_all(ACCEPT_ENCODING).iter().any(listed)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn what_is_unpacked_is_what_was_packed() {
        for text in [String::new(), "[1,2,3]".to_owned(), "0123456789".repeat(100_000)] {
            let body = Body::from(text.clone().into_bytes());
            let mut unpacked = String::new();
            GzDecoder::new(&body.gzip()[..])
                .read_to_string(&mut unpacked)
                .unwrap();
            assert_eq!(
                (unpacked.as_str(), &body.plain()[..]),
                (text.as_str(), text.as_bytes())
            );
        }
    }

    #[test]
    fn gzip_is_for_those_who_ask() {
        for (value, expected) in [
            ("gzip", true),
            ("deflate, gzip", true),
            ("GZIP;q=0.5", true),
            ("x-gzip", true),
            ("gzip;q=0", false),
            ("gzip; q = 0.000", false),
            ("identity", false),
            ("gzipped", false),
            ("", false),
        ] {
            let headers = [(ACCEPT_ENCODING, HeaderValue::from_static(value))]
                .into_iter()
                .collect();
            assert_eq!(accepts_gzip(&headers), expected, "{value:?}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
