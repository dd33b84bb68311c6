//! The configuration file.

use std::path::Path;

use super::{ConfigError, Overrides};

/// Reads a configuration file.
///
/// # Errors
/// When it cannot be read or is no text.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

impl Overrides {
    /// Reads a YAML file: the flags' names in camelCase, as in `pluginDir: /run/scope/plugins`.
    ///
    /// # Errors
    /// When the file cannot be read, is no YAML, or has unknown names or bad values.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        Self::from_text(&read(path)?, path)
    }

    /// The same, of the text that was read from there.
    ///
    /// # Errors
    /// When it is no YAML, or has unknown names or bad values.
    pub fn from_text(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Self::from_yaml(text).map_err(|(line, message)| ConfigError::Parse {
            path: path.to_owned(),
            line,
            message,
        })
    }

    pub(super) fn from_yaml(text: &str) -> Result<Self, (Option<u64>, String)> {
        // An empty document is null, which is no struct.
        if text
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
        {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text).map_err(|error| {
            let line = error
                .location()
                .map(|place| place.line())
                .filter(|line| *line > 0);
            let text = error.without_snippet().to_string();
            // The place is told apart, and the parser's own advice is for programmers.
            let text = text.split(" at line ").next().unwrap_or(&text);
            let text = text.split(", set DuplicateKeyPolicy").next().unwrap_or(text);
            (line, text.lines().map(str::trim).collect::<Vec<_>>().join(" "))
        })
    }
}
