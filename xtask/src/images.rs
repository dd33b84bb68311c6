//! `cargo xtask images` and `cargo xtask static`: what is shipped.
//!
//! Programs are static and, but for the licence, alone in their images, which need neither a daemon nor a registry to be
//! made. The same programs give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::compile::static_linking;
use crate::workspace::{Workspace, output, run};

/// Make the images of agent and operator, each with its bill of materials
///
/// Writes target/images/NAME-VERSION.tar, an OCI layout that `docker load` takes too, and NAME-VERSION.cdx.json beside it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What their names begin with
    #[arg(long, env = "IMAGE_REGISTRY", default_value = "registry.example")]
    registry: String,
    /// The version in Cargo.toml, unless it is another one
    #[arg(long, env = "IMAGE_TAG")]
    tag: Option<String>,
}

/// Build agent and operator for this machine's processor so that they need no file besides themselves
#[derive(clap::Args)]
pub(crate) struct StaticArguments {
    /// Gets NAME/usr/bin/NAME, and the licence
    directory: PathBuf,
}

/// Of an image as it is stored and pulled.
const MOST_BYTES: u64 = 15_000_000;

struct Image {
    program: &'static str,
    /// The directory of its package.
    package: &'static str,
    user: &'static str,
    title: &'static str,
    description: &'static str,
}

const IMAGES: [Image; 2] = [
    Image {
        program: "scope-http-statistics-agent",
        package: "agent",
        // To load programs into the kernel takes root.
        user: "0:0",
        title: "Scope HTTP Statistics agent",
        description: "Counts the HTTP requests of every process on a host in the kernel and shows them in Weave Scope",
    },
    Image {
        program: "scope-http-statistics-operator",
        package: "operator",
        user: "65532:65532",
        title: "Scope HTTP Statistics operator",
        description: "Runs the agents of Scope HTTP Statistics on the nodes of a cluster",
    },
];

impl Arguments {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<()> {
        let tag = self.tag.as_deref().unwrap_or(Workspace::version());
        release(workspace, &self.registry, tag).map(|_directory| ())
    }
}

/// Images as they are shipped, with bills of materials; their directory.
pub(crate) fn release(workspace: &Workspace, registry: &str, tag: &str) -> Result<PathBuf> {
    let directory = workspace.target.join("images");
    let programs = release_programs(workspace)?;
    for tar in make(workspace, &programs, &directory, registry, tag)? {
        let size = fs::metadata(&tar).context("failed to look at an image")?.len();
        ensure!(
            size < MOST_BYTES,
            "{} has {size} bytes, more than {MOST_BYTES}",
            tar.display()
        );
        println!("{}  {registry}:{tag}  {size} bytes", tar.display());
    }
    bills_of_materials(workspace, &directory)?;
    Ok(directory)
}

impl StaticArguments {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<()> {
        let programs = release_programs(workspace)?;
        for image in &IMAGES {
            root_of(workspace, image, &programs, &self.directory)?;
        }
        Ok(())
    }
}

/// Builds both programs as they are shipped.
fn release_programs(workspace: &Workspace) -> Result<BTreeMap<String, PathBuf>> {
    let (variable, flags) = static_linking(&workspace.host);
    let mut cargo = workspace.command("cargo");
    cargo
        .args(["build", "--release", "--bins", "--target", &workspace.host])
        .env(variable, flags)
        .env("SCOPE_HTTP_STATISTICS_BPF_REQUIRED", "1");
    for image in &IMAGES {
        cargo.args(["--package", image.program]);
    }
    run(&mut cargo)?;
    let built = workspace.target.join(&workspace.host).join("release");
    Ok(IMAGES
        .iter()
        .map(|image| (image.program.to_owned(), built.join(image.program)))
        .collect())
}

/// Makes `directory/NAME-VERSION.tar` of each program; the paths.
pub(crate) fn make(
    workspace: &Workspace,
    programs: &BTreeMap<String, PathBuf>,
    directory: &Path,
    registry: &str,
    tag: &str,
) -> Result<Vec<PathBuf>> {
    let work = tempfile::tempdir().context("failed to make a temporary directory")?;
    fs::create_dir_all(directory).with_context(|| format!("failed to make {}", directory.display()))?;
    let revision = output(workspace.command("git").args(["rev-parse", "HEAD"])).unwrap_or_default();
    let moment = output(workspace.command("git").args(["log", "-1", "--format=%ct"])).unwrap_or_default();
    let moment = if moment.trim().is_empty() {
        "0"
    } else {
        moment.trim()
    };
    let mut tars = Vec::new();
    for image in &IMAGES {
        check_dockerfile(workspace, image)?;
        let root = root_of(workspace, image, programs, work.path())?;
        let tar = directory.join(format!("{}-{}.tar", image.program, Workspace::version()));
        let mut command = workspace.command(workspace.root.join(".ci/image"));
        command
            .arg(&tar)
            .arg(format!("{registry}/{}:{tag}", image.program))
            .arg(root)
            .arg(image.config(revision.trim()))
            .env(
                "SOURCE_DATE_EPOCH",
                std::env::var("SOURCE_DATE_EPOCH").unwrap_or_else(|_| moment.to_owned()),
            );
        run(&mut command)?;
        tars.push(tar);
    }
    Ok(tars)
}

impl Image {
    /// Members of the image's `config`, as `.ci/image` takes them: without the braces.
    fn config(&self, revision: &str) -> String {
        let config = json!({
            "User": self.user,
            "Env": ["PATH=/usr/bin"],
            "Entrypoint": [self.program],
            "Labels": {
                "org.opencontainers.image.title": self.title,
                "org.opencontainers.image.description": self.description,
                "org.opencontainers.image.version": Workspace::version(),
                "org.opencontainers.image.revision": revision,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        })
        .to_string();
        config[1..config.len() - 1].to_owned()
    }
}

/// deployments/Dockerfile makes the same images; what is written in both places is held against it.
fn check_dockerfile(workspace: &Workspace, image: &Image) -> Result<()> {
    let dockerfile = fs::read_to_string(workspace.root.join("deployments/Dockerfile"))
        .context("failed to read deployments/Dockerfile")?;
    for said in [
        format!("USER {}", image.user),
        format!("{:?}", image.title),
        format!("{:?}", image.description),
    ] {
        ensure!(
            dockerfile.contains(&said),
            "deployments/Dockerfile has not {said}: write the same in both"
        );
    }
    Ok(())
}

/// `directory/NAME`: all that is in the image.
fn root_of(
    workspace: &Workspace,
    image: &Image,
    programs: &BTreeMap<String, PathBuf>,
    directory: &Path,
) -> Result<PathBuf> {
    let name = image.program;
    let built = programs
        .get(name)
        .with_context(|| format!("{name} was not built"))?;
    let root = directory.join(name);
    let (bin, documents) = (root.join("usr/bin"), root.join("usr/share/doc").join(name));
    for directory in [&bin, &documents] {
        fs::create_dir_all(directory).with_context(|| format!("failed to make {}", directory.display()))?;
    }
    let program = bin.join(name);
    run(Command::new("strip")
        .arg("--strip-all")
        .arg("-o")
        .arg(&program)
        .arg(built))?;
    fs::copy(workspace.root.join("LICENSE"), documents.join("LICENSE"))
        .context("failed to copy the licence")?;
    let headers = output(Command::new("readelf").arg("--program-headers").arg(&program))?;
    if headers.contains("INTERP") {
        bail!("{name} is not static: it needs a loader");
    }
    Ok(root)
}

/// The crates that each program is made of, and no others: neither those of tests nor of builds.
fn bills_of_materials(workspace: &Workspace, directory: &Path) -> Result<()> {
    for image in &IMAGES {
        let name = format!("{}-{}", image.program, Workspace::version());
        let package = workspace.root.join(image.package);
        // Cargo finds a subcommand on the PATH.
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", workspace.cache.join("bin").display());
        run(workspace
            .command("cargo")
            .args([
                "cyclonedx",
                "--quiet",
                "--format",
                "json",
                "--spec-version",
                "1.5",
                "--no-build-deps",
            ])
            .args(["--target", &workspace.host, "--override-filename", &name])
            .arg("--manifest-path")
            .arg(package.join("Cargo.toml"))
            .env("PATH", path))?;
        // It writes beside every manifest of the workspace.
        let file = format!("{name}.json");
        let bill = directory.join(format!("{name}.cdx.json"));
        fs::copy(package.join(&file), &bill).context("cargo cyclonedx has written no bill of materials")?;
        for entry in fs::read_dir(&workspace.root)
            .context("failed to list the checkout")?
            .flatten()
        {
            let _ = fs::remove_file(entry.path().join(&file));
        }
        let text = fs::read_to_string(&bill).context("failed to read a bill of materials")?;
        let text: Value = serde_json::from_str(&text).context("a bill of materials is no JSON")?;
        let components = text["components"].as_array().map_or(0, Vec::len);
        println!("{}  {components} components", bill.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_config_is_the_members_of_an_object() {
        let config = IMAGES[0].config("abc");
        let whole: Value = serde_json::from_str(&format!("{{{config}}}")).unwrap();
        assert_eq!(whole["User"], "0:0");
        assert_eq!(whole["Labels"]["org.opencontainers.image.revision"], "abc");
    }

    #[test]
    fn dockerfile_and_images_say_the_same() {
        let workspace = Workspace::find().unwrap();
        for image in &IMAGES {
            check_dockerfile(&workspace, image).unwrap();
        }
    }
}
