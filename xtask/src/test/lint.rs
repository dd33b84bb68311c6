//! The tier `lint`: what reads the code and does not run it.

use std::fs;

use anyhow::{Context as _, Result};

use super::step::{Step, Verdict};
use crate::compile::static_linking;
use crate::workspace::Workspace;

/// What needs no other cargo to be done.
pub(super) fn early(workspace: &Workspace) -> Result<Vec<Step>> {
    let mut steps = formatting(workspace);
    steps.extend(scripts(workspace)?);
    Ok(steps)
}

/// What compiles. Where the tests are built, that build has had clippy in it; `whole` is with the documentation, for which all
/// dependencies are compiled once more.
pub(super) fn late(workspace: &Workspace, is_built: bool, whole: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if !is_built {
        steps.extend(clippy(workspace));
    }
    if whole {
        steps.push(rustdoc(workspace));
    }
    steps
}

/// What clippy says is one result.
pub(super) fn of_build(warnings: &[String]) -> Verdict {
    Verdict {
        step: "clippy".to_owned(),
        passed: usize::from(warnings.is_empty()),
        failures: warnings
            .iter()
            .map(|words| ("clippy".to_owned(), words.trim_end().to_owned()))
            .collect(),
        ..Verdict::default()
    }
}

/// Cargo's flags are those of the tests' build, which so shares what build scripts have made.
fn cargo(workspace: &Workspace, name: &str, arguments: &str, more: &[&str]) -> Step {
    let (variable, flags) = static_linking(&workspace.host);
    let arguments: Vec<&str> = arguments.split(' ').chain(more.iter().copied()).collect();
    Step::command(name, &workspace.root, "cargo", &arguments).with(&variable, flags)
}

fn formatting(workspace: &Workspace) -> Vec<Step> {
    vec![
        cargo(workspace, "rustfmt", "fmt --all --check", &[]),
        cargo(
            workspace,
            "rustfmt of fuzz",
            "fmt --manifest-path agent-ebpf/fuzz/Cargo.toml --check",
            &[],
        ),
    ]
}

fn clippy(workspace: &Workspace) -> Vec<Step> {
    let deny_warnings = ["--target", &workspace.host, "--", "--deny", "warnings"];
    vec![
        cargo(
            workspace,
            "clippy",
            "clippy --quiet --workspace --all-targets",
            &deny_warnings,
        ),
        // Not among all targets: it runs only where there is a control plane.
        cargo(
            workspace,
            "clippy of cluster",
            "clippy --quiet --workspace --test cluster",
            &deny_warnings,
        ),
    ]
}

fn rustdoc(workspace: &Workspace) -> Step {
    // With the examples, so that dependencies have the features that clippy has checked them with.
    cargo(
        workspace,
        "rustdoc",
        "doc --quiet --workspace --no-deps --document-private-items --lib --bins --examples",
        &["--target", &workspace.host],
    )
    // With the private items, so links to them are fine.
    .with(
        "RUSTDOCFLAGS",
        "--deny warnings --allow rustdoc::private-intra-doc-links",
    )
}

fn scripts(workspace: &Workspace) -> Result<Vec<Step>> {
    let root = &workspace.root;
    let step = |name: &str, program: String, arguments: &str| {
        Step::command(name, root, program, &arguments.split(' ').collect::<Vec<_>>())
    };
    // .ci/setup makes it of .ci/requirements-lint.txt.
    let python = |name| {
        workspace
            .cache
            .join("python/bin")
            .join(name)
            .display()
            .to_string()
    };
    let deny = workspace.tool("cargo-deny").display().to_string();
    let xtask = std::env::current_exe().context("this program has no file")?;
    Ok(vec![
        // Not the advisories: their database is fetched from outside, and a new one must not fail an old commit.
        step(
            "cargo-deny",
            deny,
            "--log-level error check bans licenses sources",
        ),
        shellcheck(workspace)?,
        step("workflows", xtask.display().to_string(), "workflows"),
        step("ruff", python("ruff"), "check e2e"),
        step("ruff format", python("ruff"), "format --check e2e"),
        step("mypy", python("mypy"), "--config-file e2e/pyproject.toml e2e"),
        step(
            "unittest of e2e",
            "python3".to_owned(),
            "-m unittest discover --top-level-directory . e2e/tests",
        ),
    ])
}

/// All scripts of `.ci`, which have no extension, and the first process of guests.
fn shellcheck(workspace: &Workspace) -> Result<Step> {
    let mut scripts = vec![workspace.root.join("xtask/src/guest/init.sh")];
    for entry in fs::read_dir(workspace.root.join(".ci")).context("failed to list .ci")? {
        let path = entry.context("failed to list .ci")?.path();
        if path.extension().is_none() {
            scripts.push(path);
        }
    }
    scripts.sort();
    let mut arguments = vec!["--external-sources".to_owned()];
    arguments.extend(scripts.iter().map(|path| path.display().to_string()));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Ok(Step::command(
        "shellcheck",
        &workspace.root,
        "shellcheck",
        &arguments,
    ))
}
