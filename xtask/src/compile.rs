//! One build for all tiers of tests: every test and both programs, static, so that the programs also go into images.
//!
//! The profile is `dev`; nothing is built a second time for a guest or a node. What is shipped is built by
//! [`crate::images`], with the profile `release`.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::dependencies;
use crate::workspace::{Workspace, output};

/// A test binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestBinary {
    /// `PACKAGE::TARGET`, as in `scope-http-statistics-agent::hooks`.
    pub(crate) name: String,
    /// Name of the target: `hooks`.
    pub(crate) target: String,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// The directory of its package, in which cargo runs tests.
    pub(crate) directory: PathBuf,
}

/// What a build has made.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// In the order in which cargo would run them.
    pub(crate) tests: Vec<TestBinary>,
    /// The programs by name.
    pub(crate) programs: BTreeMap<String, PathBuf>,
    /// What compiler and clippy say of this workspace's code, as they print it.
    pub(crate) warnings: Vec<String>,
}

impl Built {
    /// The one test binary of that target.
    pub(crate) fn test(&self, target: &str) -> Result<&TestBinary> {
        self.tests
            .iter()
            .find(|it| it.target == target)
            .with_context(|| format!("no test binary `{target}` was built"))
    }
}

/// Links the C library statically, for `host`: the name of a variable of cargo's, and its value.
pub(crate) fn static_linking(host: &str) -> (String, &'static str) {
    let target = host.to_uppercase().replace('-', "_");
    (
        format!("CARGO_TARGET_{target}_RUSTFLAGS"),
        "-C target-feature=+crt-static",
    )
}

/// Builds all targets of the workspace and both programs; the compiler's words go to the terminal.
///
/// Clippy's driver compiles this workspace's crates: it is the compiler with more lints, so that nothing is compiled once
/// to be checked and once more to be run.
pub(crate) fn tests(workspace: &Workspace) -> Result<Built> {
    let driver = clippy_driver(workspace)?;
    let is_cold = dependencies::is_cold(workspace);
    let is_to_keep = is_cold && !dependencies::restore(workspace)?;
    let mut built = Built::default();
    // `cluster` is not among the default targets, since it needs a control plane.
    for targets in [
        &["--workspace", "--tests", "--bench", "*", "--examples"][..],
        &["--workspace", "--test", "cluster"],
    ] {
        let (variable, flags) = static_linking(&workspace.host);
        let mut cargo = workspace.command("cargo");
        cargo
            .args(["test", "--no-run", "--message-format=json"])
            // With --target the flags are for what is tested, not for what runs while it is built.
            .args(["--target", &workspace.host])
            .args(targets)
            .env(variable, flags)
            .env("RUSTC_WORKSPACE_WRAPPER", &driver)
            .env("SCOPE_HTTP_STATISTICS_BPF_REQUIRED", "1");
        if env::var_os("CI").is_some() {
            // Nobody builds there a second time.
            cargo.env("CARGO_INCREMENTAL", "0");
        }
        read_messages(&mut cargo, &mut built)?;
    }
    if is_to_keep {
        dependencies::keep(workspace)?;
    }
    Ok(built)
}

/// Beside the compiler.
fn clippy_driver(workspace: &Workspace) -> Result<PathBuf> {
    let sysroot = output(workspace.command("rustc").args(["--print", "sysroot"]))?;
    let driver = Path::new(sysroot.trim()).join("bin/clippy-driver");
    ensure!(
        driver.is_file(),
        "there is no {}: clippy is missing (rustup component add clippy)",
        driver.display()
    );
    Ok(driver)
}

/// What cargo says of an artifact, or the compiler of the code.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(rename = "message")]
    diagnostic: Option<Diagnostic>,
    #[serde(default)]
    manifest_path: PathBuf,
    target: Option<Target>,
    #[serde(default)]
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Diagnostic {
    rendered: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Default, Deserialize)]
struct Profile {
    test: bool,
}

fn read_messages(cargo: &mut Command, built: &mut Built) -> Result<()> {
    let mut child = cargo
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to run cargo")?;
    let messages = child.stdout.take().context("cargo's output is not there")?;
    for line in BufReader::new(messages).lines() {
        let line = line.context("failed to read what cargo says")?;
        let message: Message = serde_json::from_str(&line)
            .with_context(|| format!("cargo says something else than expected: {line}"))?;
        if let Some(Diagnostic {
            rendered: Some(words),
        }) = &message.diagnostic
        {
            let _ = std::io::stderr().write_all(words.as_bytes());
            // Of dependencies cargo lets nothing through. The same line may be compiled for several targets.
            if !built.warnings.contains(words) {
                built.warnings.push(words.clone());
            }
        }
        take(message, built);
    }
    let status = child.wait().context("failed to wait for cargo")?;
    ensure!(status.success(), "the tests do not build (cargo: {status})");
    Ok(())
}

fn take(message: Message, built: &mut Built) {
    let (Some(target), Some(path)) = (message.target, message.executable) else {
        return;
    };
    if message.reason != "compiler-artifact" {
        return;
    }
    let directory = message.manifest_path.parent().unwrap_or(Path::new("")).to_owned();
    let package = directory
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let is = |wanted: &str| target.kind.iter().any(|kind| kind == wanted);
    if is("bench") || is("example") {
        return;
    }
    if message.profile.test || is("test") {
        let test = TestBinary {
            name: format!("{package}::{}", target.name),
            target: target.name,
            path,
            directory,
        };
        if !built.tests.contains(&test) {
            built.tests.push(test);
        }
    } else if is("bin") {
        built.programs.insert(target.name, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_says_of_a_test_and_of_a_program_is_told_apart() {
        let mut built = Built::default();
        for line in [
            r#"{"reason":"compiler-artifact","manifest_path":"/c/agent/Cargo.toml","target":{"kind":["test"],"name":"hooks"},"profile":{"test":true},"executable":"/t/hooks-1"}"#,
            r#"{"reason":"compiler-artifact","manifest_path":"/c/agent/Cargo.toml","target":{"kind":["bin"],"name":"scope-http-statistics-agent"},"profile":{"test":false},"executable":"/t/agent"}"#,
            r#"{"reason":"compiler-artifact","manifest_path":"/c/agent/Cargo.toml","target":{"kind":["lib"],"name":"agent"},"profile":{"test":false},"executable":null}"#,
            r#"{"reason":"compiler-artifact","manifest_path":"/c/agent/Cargo.toml","target":{"kind":["bench"],"name":"cost"},"profile":{"test":true},"executable":"/t/cost-1"}"#,
            r#"{"reason":"build-finished","success":true}"#,
        ] {
            take(serde_json::from_str(line).unwrap(), &mut built);
        }
        let hooks = built.test("hooks").unwrap();
        assert_eq!(
            (&*hooks.name, &*hooks.directory, built.tests.len()),
            ("agent::hooks", Path::new("/c/agent"), 1)
        );
        assert_eq!(
            built.programs["scope-http-statistics-agent"],
            Path::new("/t/agent")
        );
        assert!(built.test("table").is_err());
    }

    #[test]
    fn cargos_variable_for_a_target_is_in_capitals() {
        assert_eq!(
            static_linking("x86_64-unknown-linux-gnu").0,
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS"
        );
    }
}
