//! What the tests' build makes of other people's crates, kept in the cache: half of the time of a build in a new clone.
//!
//! Kept as it is in the target directory, whose names say of each artifact what it was made of. Crates of this workspace are
//! left out: whether those are up to date cargo tells by the times of files, which a new clone does not have.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::workspace::{Workspace, output, run};

/// Directories of a target directory in which artifacts are, one for what is tested and one for what runs while it is built.
fn directories(host: &str) -> [PathBuf; 2] {
    [Path::new(host).join("debug"), PathBuf::from("debug")]
}

/// What is kept of them.
const KEPT: [&str; 3] = [".fingerprint", "build", "deps"];

/// Whether the next build begins from nothing.
pub(crate) fn is_cold(workspace: &Workspace) -> bool {
    !workspace.target.join(&workspace.host).join("debug/deps").exists()
}

/// Takes over what an earlier build of the same dependencies by the same compiler has left; false if there is nothing.
pub(crate) fn restore(workspace: &Workspace) -> Result<bool> {
    let kept = place(workspace);
    if fs::read_to_string(kept.join("key")).ok() != Some(key(workspace)?) {
        return Ok(false);
    }
    for directory in directories(&workspace.host) {
        copy(&kept.join(&directory), &workspace.target.join(&directory))?;
    }
    Ok(true)
}

/// Keeps what a build has made, in place of what was kept before.
pub(crate) fn keep(workspace: &Workspace) -> Result<()> {
    let kept = place(workspace);
    let work = kept.with_extension("new");
    let _ = fs::remove_dir_all(&work);
    for directory in directories(&workspace.host) {
        copy(&workspace.target.join(&directory), &work.join(&directory))?;
    }
    // For both: what is tested, and build scripts and the like.
    for target in [&["--target", workspace.host.as_str()][..], &[]] {
        let mut clean = workspace.command("cargo");
        clean
            .args(["clean", "--quiet", "--target-dir"])
            .arg(&work)
            .args(target);
        for member in members(workspace)? {
            clean.args(["--package", &member]);
        }
        run(&mut clean)?;
    }
    fs::write(work.join("key"), key(workspace)?).context("failed to write to the cache")?;
    let _ = fs::remove_dir_all(&kept);
    fs::rename(&work, &kept).with_context(|| format!("failed to move {}", work.display()))
}

fn place(workspace: &Workspace) -> PathBuf {
    workspace.cache.join("dependencies")
}

/// Of the compiler, the dependencies and how they are compiled.
fn key(workspace: &Workspace) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    output(Command::new("rustc").args(["--version", "--verbose"]))?.hash(&mut hasher);
    for file in ["Cargo.lock", "Cargo.toml", "xtask/src/compile.rs"] {
        let path = workspace.root.join(file);
        fs::read(&path)
            .with_context(|| format!("failed to read {}", path.display()))?
            .hash(&mut hasher);
    }
    Ok(format!("{:016x}\n", hasher.finish()))
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
}

/// The packages of this workspace.
fn members(workspace: &Workspace) -> Result<Vec<String>> {
    let said = output(workspace.command("cargo").args([
        "metadata",
        "--offline",
        "--no-deps",
        "--format-version=1",
    ]))?;
    let metadata: Metadata = serde_json::from_str(&said).context("cargo metadata says something else")?;
    Ok(metadata
        .packages
        .into_iter()
        .map(|package| package.name)
        .collect())
}

/// With times, by which cargo tells what is newer. What is there already is replaced: its times would be newer than those of
/// what was made of it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for name in KEPT {
        let from = from.join(name);
        if !from.is_dir() {
            continue;
        }
        fs::create_dir_all(to).with_context(|| format!("failed to make {}", to.display()))?;
        run(Command::new("cp")
            .args(["--archive", "--reflink=auto"])
            .arg(&from)
            .arg(to))?;
    }
    Ok(())
}
