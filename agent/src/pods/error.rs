//! Errors of the API server's client, in words.

/// What an error comes down to: kube's own messages repeat what they are made of.
pub(super) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let innermost = std::iter::successors(Some(error), |error| error.source()).last();
    innermost.unwrap_or(error).to_string()
}
