//! Where things are: the checkout, what was built, and the cache outside of it.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Paths that every command here needs.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// Cargo's target directory.
    pub(crate) target: PathBuf,
    /// What `.ci/setup` has fetched and built: guest kernels, a control plane, tools.
    pub(crate) cache: PathBuf,
    /// The target triple of this machine, as cargo writes it.
    pub(crate) host: String,
}

impl Workspace {
    /// Of the checkout that this program was built in.
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the xtask crate lies in no workspace")?
            .to_owned();
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |it| root.join(it));
        // As .ci/env, for those who call cargo by hand.
        let cache = match env::var_os("SCOPE_HTTP_STATISTICS_CACHE") {
            Some(cache) => PathBuf::from(cache),
            None => env::var_os("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
                .context("neither SCOPE_HTTP_STATISTICS_CACHE nor HOME says where the cache is")?
                .join("scope-http-statistics"),
        };
        let said = output(Command::new("rustc").args(["--version", "--verbose"]))?;
        let host = said
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .context("rustc does not say what it compiles for")?
            .to_owned();
        Ok(Self {
            root,
            target,
            cache,
            host,
        })
    }

    /// A program that `.ci/setup` has put into the cache, else the one on the PATH.
    pub(crate) fn tool(&self, name: &str) -> PathBuf {
        let cached = self.cache.join("bin").join(name);
        if cached.is_file() {
            cached
        } else {
            PathBuf::from(name)
        }
    }

    /// A command that runs in the checkout.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.root)
            .env("SCOPE_HTTP_STATISTICS_CACHE", &self.cache);
        command
    }

    /// `version` in the workspace's Cargo.toml.
    pub(crate) fn version() -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}

/// What a command prints; an error if it fails, with what it says of it.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("failed to run {}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{} failed ({}): {}",
        line_of(command),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout).with_context(|| format!("{} prints no UTF-8", line_of(command)))
}

/// Runs a command that prints for itself; an error if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("failed to run {}", command.get_program().display()))?;
    ensure!(status.success(), "{} failed ({status})", line_of(command));
    Ok(())
}

/// Program and arguments, to be read by a person.
pub(crate) fn line_of(command: &Command) -> String {
    let mut line = command.get_program().display().to_string();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.display().to_string());
    }
    line
}
