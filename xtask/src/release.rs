//! What a release is made of: RELEASE.md has the steps, `.github/workflows/release.yml` calls these.
//!
//! What a workflow goes on with is printed as `name=value`, one a line, which is what it appends to `$GITHUB_OUTPUT`.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::workspace::{Workspace, output, run as run_command};

/// Both images, and what their outputs are called.
const IMAGES: [(&str, &str); 2] = [
    ("agent", "scope-http-statistics-agent"),
    ("operator", "scope-http-statistics-operator"),
];

/// The chart, in the checkout.
const CHART: &str = "charts/scope-http-statistics";

/// What stands in a checkout for the registry that a release goes to.
const NO_REGISTRY: &str = "registry.example";

/// The one list of what images are made for. Each is built on a runner of its own kind: nothing is compiled for another.
const PLATFORMS: &[Platform] = &[Platform {
    name: "linux/amd64",
    architecture: "amd64",
    runner: "ubuntu-24.04",
}];

/// A row of the workflow's matrix.
#[derive(Debug, Serialize)]
struct Platform {
    /// As OCI writes it.
    #[serde(rename = "platform")]
    name: &'static str,
    /// The part of it that names of files and artefacts bear.
    architecture: &'static str,
    /// Which of GitHub's machines builds it.
    runner: &'static str,
}

/// Check, describe, package and push a release.
#[derive(Debug, Subcommand)]
pub(crate) enum Release {
    /// Refuse a tag unless Cargo.toml, Chart.yaml and the newest entry of CHANGELOG.md have its version, and that entry a date.
    Check {
        /// As in v0.1.0.
        tag: String,
    },
    /// Print the entry of this version in CHANGELOG.md.
    Notes,
    /// Print what images are made for, as `platforms=JSON`.
    Platforms,
    /// Package the chart as it is published: with the registry and the version filled in.
    Chart(Chart),
    /// Push images and chart; print `agent=`, `operator=`, `chart=` with their digests, and `agent-sbom=`, `operator-sbom=`.
    Push(Push),
}

/// Arguments of `release chart`.
#[derive(Args, Debug)]
pub(crate) struct Chart {
    /// Where the images are, as in ghcr.io/me.
    #[arg(long)]
    registry: String,
    /// Directory that gets the package.
    #[arg(long)]
    output: PathBuf,
}

/// Arguments of `release push`.
#[derive(Args, Debug)]
pub(crate) struct Push {
    /// Where to, as in ghcr.io/me; the chart goes to charts/ below it.
    #[arg(long)]
    registry: String,
    /// Directory with what `cargo xtask images` made, for each platform in a directory of its own.
    #[arg(long)]
    images: PathBuf,
    /// Directory with the chart's package; gets the bills of materials.
    #[arg(long)]
    output: PathBuf,
    /// The registry speaks plain HTTP, as one for a trial does.
    #[arg(long)]
    plain_http: bool,
}

/// `cargo xtask release …`.
pub(crate) fn run(workspace: &Workspace, command: &Release) -> Result<()> {
    let version = Workspace::version();
    match command {
        Release::Check { tag } => check(workspace, tag),
        Release::Notes => {
            let changelog = read(&workspace.root.join("CHANGELOG.md"))?;
            let entry = entries(&changelog)
                .find(|entry| entry.version == version)
                .with_context(|| format!("CHANGELOG.md has no entry for {version}"))?;
            print(entry.text)
        }
        Release::Platforms => print(&format!("platforms={}", serde_json::to_string(PLATFORMS)?)),
        Release::Chart(arguments) => chart(workspace, arguments),
        Release::Push(arguments) => push(workspace, arguments),
    }
}

fn check(workspace: &Workspace, tag: &str) -> Result<()> {
    let manifest = read(&workspace.root.join(CHART).join("Chart.yaml"))?;
    let manifest: Manifest = serde_saphyr::from_str(&manifest).context("Chart.yaml cannot be read")?;
    let changelog = read(&workspace.root.join("CHANGELOG.md"))?;
    let faults = faults(tag, Workspace::version(), &manifest, &changelog);
    ensure!(
        faults.is_empty(),
        "{tag} is no release of this:\n  {}",
        faults.join("\n  ")
    );
    Ok(())
}

/// What a chart says of itself, as far as a release looks at it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    version: String,
    app_version: String,
}

/// An entry of a changelog.
#[derive(Debug, PartialEq)]
struct Entry<'a> {
    version: &'a str,
    /// What stands after the version: its date, or that it has none yet.
    date: &'a str,
    /// Without the heading.
    text: &'a str,
}

/// The entries of a changelog, whose headings are `## VERSION - DATE`, newest first.
fn entries(changelog: &str) -> impl Iterator<Item = Entry<'_>> {
    let mut parts = changelog.split("\n## ");
    parts.next(); // what comes before the first heading
    parts.map(|part| {
        let (heading, text) = part.split_once('\n').unwrap_or((part, ""));
        let (version, date) = heading.split_once(" - ").unwrap_or((heading, ""));
        Entry {
            version: version.trim_matches(['[', ']']),
            date: date.trim(),
            text: text.trim(),
        }
    })
}

/// Whether it is written YYYY-MM-DD.
fn is_date(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

/// Why a tag must not become a release.
fn faults(tag: &str, version: &str, manifest: &Manifest, changelog: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if tag.strip_prefix('v') != Some(version) {
        faults.push(format!(
            "Cargo.toml has version {version}: the tag would be v{version}"
        ));
    }
    for (field, value) in [
        ("version", &manifest.version),
        ("appVersion", &manifest.app_version),
    ] {
        if value != version {
            faults.push(format!("Chart.yaml has {field} {value}, Cargo.toml {version}"));
        }
    }
    match entries(changelog).next() {
        None => faults.push("CHANGELOG.md has no entry".to_owned()),
        Some(entry) if entry.version != version => {
            faults.push(format!(
                "CHANGELOG.md has {} first, Cargo.toml {version}",
                entry.version
            ));
        }
        Some(entry) => {
            if !is_date(entry.date) {
                let said = entry.date;
                faults.push(format!(
                    "CHANGELOG.md has no date for {version} but \"{said}\": write YYYY-MM-DD"
                ));
            }
            if entry.text.is_empty() {
                faults.push(format!("CHANGELOG.md has nothing to say of {version}"));
            }
        }
    }
    faults
}

fn chart(workspace: &Workspace, arguments: &Chart) -> Result<()> {
    let version = Workspace::version();
    // A copy, for the checkout stays as it is.
    let copy = workspace.target.join("chart");
    let chart = copy.join("scope-http-statistics");
    empty(&copy)?;
    run_command(
        workspace
            .command("cp")
            .args(["--recursive", "--no-target-directory", CHART])
            .arg(&chart),
    )?;
    for file in ["Chart.yaml", "values.yaml"] {
        let path = chart.join(file);
        let filled = fill(&read(&path)?, &arguments.registry).with_context(|| format!("{CHART}/{file}"))?;
        fs::write(&path, filled).with_context(|| format!("failed to write {}", path.display()))?;
    }
    run_command(
        workspace
            .command(workspace.tool("helm"))
            .args([
                "package",
                "--version",
                version,
                "--app-version",
                version,
                "--destination",
            ])
            .arg(&arguments.output)
            .arg(&chart),
    )?;
    // What a user gets who sets nothing.
    let shown = output(
        workspace
            .command(workspace.tool("helm"))
            .args(["template", "statistics"])
            .arg(package(workspace, &arguments.output)),
    )?;
    for (_, name) in IMAGES {
        let image = format!("{}/{name}:{version}", arguments.registry);
        ensure!(
            shown.contains(&image),
            "the chart that was packaged does not run {image}"
        );
    }
    Ok(())
}

/// Where a chart's package lies in a directory.
fn package(workspace: &Workspace, output: &Path) -> PathBuf {
    let name = format!("scope-http-statistics-{}.tgz", Workspace::version());
    workspace.root.join(output).join(name)
}

/// A file of the chart with the registry in place of the one that does not exist.
fn fill(text: &str, registry: &str) -> Result<String> {
    ensure!(
        text.matches(NO_REGISTRY).count() == 1,
        "{NO_REGISTRY} must stand there once, for the registry to be filled in"
    );
    Ok(text.replace(NO_REGISTRY, registry))
}

/// An image of one platform, unpacked: an OCI layout.
struct Layout {
    directory: PathBuf,
    /// Its manifest's descriptor, with the platform in it.
    descriptor: serde_json::Value,
    /// As OCI writes it.
    platform: String,
}

fn push(workspace: &Workspace, arguments: &Push) -> Result<()> {
    let version = Workspace::version();
    let work = workspace.target.join("push");
    empty(&work)?;
    let mut outputs = Vec::new();
    for (short, name) in IMAGES {
        let image = join(workspace, &arguments.images, name, &work)?;
        let digest = work.join(format!("{name}.digest"));
        run_command(
            workspace
                .command("skopeo")
                .args(["copy", "--quiet", "--all", "--preserve-digests"])
                .args(arguments.plain_http.then_some("--dest-tls-verify=false"))
                .arg("--digestfile")
                .arg(&digest)
                .arg(format!("oci:{}:{version}", image.display()))
                .arg(format!("docker://{}/{name}:{version}", arguments.registry)),
        )?;
        outputs.push(format!("{short}={}", read(&digest)?.trim()));
        outputs.push(format!(
            "{short}-sbom={}",
            bills(workspace, arguments, name)?.display()
        ));
    }
    let mut helm = workspace.command(workspace.tool("helm"));
    helm.arg("push")
        .arg(package(workspace, &arguments.output))
        .arg(format!("oci://{}/charts", arguments.registry))
        .args(arguments.plain_http.then_some("--plain-http"));
    outputs.push(format!("chart={}", pushed(&mut helm)?));
    print(&outputs.join("\n"))
}

/// Makes one image of those of all platforms: an index, as a layout of its own.
fn join(workspace: &Workspace, images: &Path, name: &str, work: &Path) -> Result<PathBuf> {
    let archive = format!("{name}-{}.tar", Workspace::version());
    let mut layouts = Vec::new();
    for (at, archive) in find(&workspace.root.join(images), &archive)?.iter().enumerate() {
        layouts.push(unpack(workspace, archive, work.join(format!("{name}.{at}")))?);
    }
    let mut found: Vec<_> = layouts.iter().map(|layout| layout.platform.as_str()).collect();
    found.sort_unstable();
    let mut wanted: Vec<_> = PLATFORMS.iter().map(|platform| platform.name).collect();
    wanted.sort_unstable();
    ensure!(
        found == wanted,
        "{} has {name} for {found:?}, not for {wanted:?}",
        images.display()
    );

    let joined = work.join(name);
    let blobs = joined.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("failed to create {}", blobs.display()))?;
    for layout in &layouts {
        run_command(
            workspace
                .command("cp")
                .args(["--recursive", "--no-target-directory"])
                .arg(layout.directory.join("blobs/sha256"))
                .arg(&blobs),
        )?;
    }
    let manifests: Vec<_> = layouts.iter().map(|layout| &layout.descriptor).collect();
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": manifests });
    let descriptor = blob(workspace, &blobs, &index, kind)?;
    write(
        &joined.join("oci-layout"),
        &json!({ "imageLayoutVersion": "1.0.0" }),
    )?;
    write(
        &joined.join("index.json"),
        &json!({ "schemaVersion": 2, "manifests": [descriptor] }),
    )?;
    Ok(joined)
}

/// Unpacks what `cargo xtask images` made, and finds out for which platform it is.
fn unpack(workspace: &Workspace, archive: &Path, directory: PathBuf) -> Result<Layout> {
    empty(&directory)?;
    run_command(
        workspace
            .command("tar")
            .arg("--extract")
            .arg("--file")
            .arg(archive)
            .arg("--directory")
            .arg(&directory),
    )?;
    let at = || format!("{} is no image", archive.display());
    let index: serde_json::Value =
        serde_json::from_str(&read(&directory.join("index.json"))?).with_context(at)?;
    let manifest: serde_json::Value = referred(&directory, &index["manifests"][0]).with_context(at)?;
    let config: serde_json::Value = referred(&directory, &manifest["config"]).with_context(at)?;
    let (os, architecture) = (&config["os"], &config["architecture"]);
    let (Some(os), Some(architecture)) = (os.as_str(), architecture.as_str()) else {
        bail!("{} does not say what it is for", archive.display());
    };
    let platform = format!("{os}/{architecture}");
    let mut descriptor = index["manifests"][0].clone();
    descriptor["platform"] = json!({ "os": os, "architecture": architecture });
    if let Some(descriptor) = descriptor.as_object_mut() {
        descriptor.remove("annotations"); // its name, which is the index's now
    }
    Ok(Layout {
        directory,
        descriptor,
        platform,
    })
}

/// What a descriptor refers to.
fn referred(layout: &Path, descriptor: &serde_json::Value) -> Result<serde_json::Value> {
    let digest = descriptor["digest"]
        .as_str()
        .context("a descriptor without a digest")?;
    let path = layout.join("blobs").join(digest.replace(':', "/"));
    Ok(serde_json::from_str(&read(&path)?)?)
}

/// Writes a blob under its digest; returns its descriptor, with the version as its name.
fn blob(
    workspace: &Workspace,
    blobs: &Path,
    content: &serde_json::Value,
    kind: &str,
) -> Result<serde_json::Value> {
    let unnamed = blobs.join("new");
    write(&unnamed, content)?;
    let said = output(workspace.command("sha256sum").arg(&unnamed))?;
    let digest = said.split(' ').next().unwrap_or_default();
    let path = blobs.join(digest);
    fs::rename(&unnamed, &path).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(json!({
        "mediaType": kind,
        "digest": format!("sha256:{digest}"),
        "size": content.to_string().len(),
        "annotations": { "org.opencontainers.image.ref.name": Workspace::version() },
    }))
}

/// Collects an image's bills of materials, one for each platform; says where the first platform's is.
fn bills(workspace: &Workspace, arguments: &Push, name: &str) -> Result<PathBuf> {
    let version = Workspace::version();
    let mut first = None;
    for platform in PLATFORMS {
        let architecture = platform.architecture;
        // Beside the image: a directory of its own for each platform, if there are several.
        let mut bills = find(
            &workspace.root.join(&arguments.images),
            &format!("{name}-{version}.cdx.json"),
        )?;
        if PLATFORMS.len() > 1 {
            bills.retain(|path| {
                path.components()
                    .any(|part| part.as_os_str().to_string_lossy().ends_with(architecture))
            });
        }
        let [bill] = bills.as_slice() else {
            bail!(
                "{} has {} bills of materials of {name} for {architecture}",
                arguments.images.display(),
                bills.len()
            );
        };
        let copy = arguments
            .output
            .join(format!("{name}-{version}-{architecture}.cdx.json"));
        fs::copy(bill, workspace.root.join(&copy))
            .with_context(|| format!("failed to write {}", copy.display()))?;
        first.get_or_insert(copy);
    }
    first.context("there is no platform")
}

/// Runs `helm push`; returns the digest, which it says among other things.
fn pushed(helm: &mut std::process::Command) -> Result<String> {
    let output = helm.output().context("failed to run helm")?;
    // On standard error with Helm 3, on standard output with Helm 4.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success(), "helm push failed: {}", said.trim());
    let digest = said.lines().find_map(|line| line.strip_prefix("Digest: "));
    Ok(digest.context("helm push names no digest")?.trim().to_owned())
}

/// All files of a name, in a directory and those below it.
fn find(directory: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries =
        fs::read_dir(directory).with_context(|| format!("failed to read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(find(&path, name)?);
        } else if path.file_name().is_some_and(|it| it == name) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Makes a directory, without what was in it.
fn empty(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("failed to remove {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("failed to create {}", directory.display()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

fn write(path: &Path, content: &serde_json::Value) -> Result<()> {
    fs::write(path, content.to_string()).with_context(|| format!("failed to write {}", path.display()))
}

fn print(text: &str) -> Result<()> {
    writeln!(io::stdout().lock(), "{text}").context("failed to print")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(version: &str, app_version: &str) -> Manifest {
        Manifest {
            version: version.to_owned(),
            app_version: app_version.to_owned(),
        }
    }

    const CHANGELOG: &str =
        "# Changelog\n\n## 0.2.0 - 2026-12-01\n\nNew.\n\n## [0.1.0] - 2026-11-01\n\nFirst.\n";

    #[test]
    fn a_tag_that_is_the_version_everywhere_is_accepted() {
        let faults = faults("v0.2.0", "0.2.0", &manifest("0.2.0", "0.2.0"), CHANGELOG);
        assert_eq!(faults, [""; 0]);
    }

    #[test]
    fn a_tag_is_refused_with_what_is_wrong() {
        let undated = CHANGELOG.replace("2026-12-01", "unreleased");
        for (tag, version, manifest, changelog, fault) in [
            (
                "0.2.0",
                "0.2.0",
                manifest("0.2.0", "0.2.0"),
                CHANGELOG,
                "the tag would be v0.2.0",
            ),
            (
                "v0.3.0",
                "0.2.0",
                manifest("0.2.0", "0.2.0"),
                CHANGELOG,
                "the tag would be v0.2.0",
            ),
            (
                "v0.2.0",
                "0.2.0",
                manifest("0.1.0", "0.2.0"),
                CHANGELOG,
                "has version 0.1.0",
            ),
            (
                "v0.2.0",
                "0.2.0",
                manifest("0.2.0", "0.1.0"),
                CHANGELOG,
                "has appVersion 0.1.0",
            ),
            (
                "v0.3.0",
                "0.3.0",
                manifest("0.3.0", "0.3.0"),
                CHANGELOG,
                "has 0.2.0 first",
            ),
            (
                "v0.2.0",
                "0.2.0",
                manifest("0.2.0", "0.2.0"),
                undated.as_str(),
                "no date for 0.2.0",
            ),
            (
                "v0.2.0",
                "0.2.0",
                manifest("0.2.0", "0.2.0"),
                "# Changelog\n",
                "no entry",
            ),
        ] {
            let faults = faults(tag, version, &manifest, changelog);
            assert!(
                faults.len() == 1 && faults[0].contains(fault),
                "{fault}: {faults:?}"
            );
        }
    }

    #[test]
    fn an_entry_ends_where_the_next_begins() {
        let entries: Vec<_> = entries(CHANGELOG).collect();
        assert_eq!(entries[0].text, "New.");
        assert_eq!(
            (entries[1].version, entries[1].date, entries[1].text),
            ("0.1.0", "2026-11-01", "First.")
        );
    }

    #[test]
    fn the_registry_is_filled_in_where_it_stands_and_missed_where_it_does_not() {
        assert_eq!(
            fill("registry: registry.example", "ghcr.io/me").unwrap(),
            "registry: ghcr.io/me"
        );
        assert!(fill("registry: docker.io", "ghcr.io/me").is_err());
    }

    #[test]
    fn the_charts_version_is_the_workspaces() {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(CHART);
        let manifest: Manifest = serde_saphyr::from_str(&read(&chart.join("Chart.yaml")).unwrap()).unwrap();
        assert_eq!(manifest.version, Workspace::version());
        assert_eq!(manifest.app_version, Workspace::version());
    }
}
