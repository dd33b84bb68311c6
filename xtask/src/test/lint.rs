//! The tier `lint`: what reads the code and does not run it.

use std::fs;

use anyhow::{Context as _, Result};

use super::step::Step;
use crate::compile::static_linking;
use crate::workspace::Workspace;

/// Its steps. Cargo's flags are those of the tests' build, which so shares what build scripts have made.
pub(super) fn steps(workspace: &Workspace) -> Result<Vec<Step>> {
    let mut steps = rust(workspace);
    steps.extend(scripts(workspace)?);
    Ok(steps)
}

fn rust(workspace: &Workspace) -> Vec<Step> {
    let (variable, flags) = static_linking(&workspace.host);
    let host = workspace.host.as_str();
    let cargo = |name: &str, arguments: &str, more: &[&str]| {
        let arguments: Vec<&str> = arguments.split(' ').chain(more.iter().copied()).collect();
        Step::command(name, &workspace.root, "cargo", &arguments).with(&variable, flags)
    };
    let deny_warnings = ["--target", host, "--", "--deny", "warnings"];
    vec![
        cargo("rustfmt", "fmt --all --check", &[]),
        cargo(
            "rustfmt of fuzz",
            "fmt --manifest-path agent-ebpf/fuzz/Cargo.toml --check",
            &[],
        ),
        cargo(
            "clippy",
            "clippy --quiet --workspace --all-targets",
            &deny_warnings,
        ),
        // Not among all targets: it runs only where there is a control plane.
        cargo(
            "clippy of cluster",
            "clippy --quiet --workspace --test cluster",
            &deny_warnings,
        ),
        // With the examples, so that dependencies have the features that clippy has checked them with.
        cargo(
            "rustdoc",
            "doc --quiet --workspace --no-deps --document-private-items --lib --bins --examples",
            &["--target", host],
        )
        // With the private items, so links to them are fine.
        .with(
            "RUSTDOCFLAGS",
            "--deny warnings --allow rustdoc::private-intra-doc-links",
        ),
    ]
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
