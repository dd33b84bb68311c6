//! What Kubernetes and the agents accept as names and paths.

/// Longest value of a label (Kubernetes, `validation.LabelValueMaxLength`).
pub(super) const MAX_NAME: usize = 63;
/// A socket's path has 107 bytes at most; this is what remains of them for the directory. See the field in the API.
pub(super) const MAX_PLUGIN_DIRECTORY: usize = 70;

pub(super) fn is_plugin_directory(path: &str) -> bool {
    let segment = |segment: &str| {
        !segment.is_empty()
            && !segment.starts_with('.')
            && segment
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    path.len() <= MAX_PLUGIN_DIRECTORY
        && path
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(segment))
}

/// `[prefix/]name` (Kubernetes, `IsQualifiedName`).
pub(super) fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    prefix.is_none_or(is_subdomain) && !name.is_empty() && is_label_value(name)
}

pub(super) fn is_label_value(text: &str) -> bool {
    let ends = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && ends(text.bytes().next())
        && ends(text.bytes().last())
}

/// A label as in RFC 1123, such as a namespace's name.
pub(super) fn is_dns_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

pub(super) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|part| part.len() <= 63 && is_dns_label(part))
}
