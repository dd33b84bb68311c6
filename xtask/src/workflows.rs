//! The workflows of `.github`, which cannot run here: that they are well formed, safe, and call what exists.
//!
//! zizmor and check-jsonschema know GitHub's language. What they do not know is this checkout: [`faults`] reads every `run:` and
//! every `uses:` of a file of ours, and names what is not there: a target of make, a command of this program, a script, a job.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::workspace::{Workspace, run};

/// Programs of the runner's, or of an action's, that a step may call: what no clone needs.
const OUTSIDE: &[(&str, &str)] = &[
    ("apt-get", "packages where .ci/setup does not know the system"),
    ("cosign", "signs with the workflow's identity"),
    ("docker", "logs in to the registry"),
    ("exit", "a job that sums up others"),
    ("gh", "creates the release"),
    ("printf", "hands a token on"),
    ("rustup", "clippy and rustfmt"),
];

/// Commands of cargo's, besides `xtask`.
const CARGO: &[&str] = &["deny"];

/// All checks of `.github`; part of the tier `lint`. `xtask` is this program's command line.
pub(crate) fn check(workspace: &Workspace, xtask: &clap::Command) -> Result<()> {
    let faults = faults(&workspace.root, xtask)?;
    ensure!(
        faults.is_empty(),
        "in .github/workflows:\n  {}",
        faults.join("\n  ")
    );
    audit(workspace)
}

/// Runs zizmor and check-jsonschema, which `.ci/setup` has put into the cache.
fn audit(workspace: &Workspace) -> Result<()> {
    let tools = workspace.cache.join("python/bin");
    for tool in ["zizmor", "check-jsonschema"] {
        ensure!(
            tools.join(tool).is_file(),
            "{tool} is missing: run .ci/setup test"
        );
    }
    run(workspace.command(tools.join("zizmor")).args([
        "--quiet",
        "--offline",
        "--no-progress",
        "--persona=pedantic",
        "--strict-collection",
        ".github",
    ]))?;
    let (configuration, forms): (Vec<_>, Vec<_>) = files(&workspace.root, ".github/ISSUE_TEMPLATE")?
        .into_iter()
        .partition(|path| path.file_stem().is_some_and(|name| name == "config"));
    let workflows = files(&workspace.root, ".github/workflows")?;
    let dependabot = vec![workspace.root.join(".github/dependabot.yml")];
    for (schema, files) in [
        ("vendor.github-workflows", &workflows),
        ("custom.github-workflows-require-timeout", &workflows),
        ("vendor.dependabot", &dependabot),
        ("vendor.github-issue-forms", &forms),
        ("vendor.github-issue-config", &configuration),
    ] {
        let mut command = workspace.command(tools.join("check-jsonschema"));
        command.args(["--builtin-schema", schema]).args(files);
        // It says "ok" for each schema; only what is wrong is worth a line.
        let output = command.output().context("failed to run check-jsonschema")?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(
            output.status.success(),
            "{schema}: {}",
            String::from_utf8_lossy(&said).trim()
        );
    }
    Ok(())
}

/// The YAML files of a directory; there must be some.
fn files(root: &Path, directory: &str) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(root.join(directory)).with_context(|| format!("failed to read {directory}"))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "yml" || it == "yaml") {
            files.push(path);
        }
    }
    ensure!(!files.is_empty(), "{directory} has no YAML files");
    files.sort();
    Ok(files)
}

/// A workflow, as far as it is looked at.
#[derive(Debug, Deserialize)]
struct Workflow {
    #[serde(default)]
    env: Variables,
    jobs: BTreeMap<String, Job>,
}

#[derive(Debug, Deserialize)]
struct Job {
    #[serde(default)]
    env: Variables,
    #[serde(default)]
    needs: Value,
    #[serde(default)]
    container: Value,
    #[serde(default)]
    strategy: Strategy,
    uses: Option<String>,
    #[serde(default)]
    steps: Vec<Step>,
}

#[derive(Debug, Default, Deserialize)]
struct Strategy {
    #[serde(default)]
    matrix: Value,
}

#[derive(Debug, Deserialize)]
struct Step {
    run: Option<String>,
    uses: Option<String>,
    #[serde(default)]
    env: Variables,
}

type Variables = BTreeMap<String, Value>;

/// What the workflows of a checkout call and it does not have, each with where; `xtask` is this program's command line.
fn faults(root: &Path, xtask: &clap::Command) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut containers = BTreeMap::new();
    let checkout = Checkout {
        root,
        targets: targets(root)?,
        xtask,
    };
    for path in files(root, ".github/workflows")? {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read {name}"))?;
        let workflow: Workflow =
            serde_saphyr::from_str(&text).with_context(|| format!("{name} is no workflow"))?;
        for (id, job) in &workflow.jobs {
            let at = format!("{name}: {id}");
            faults.extend(
                checkout
                    .job(&workflow, job)
                    .into_iter()
                    .map(|fault| format!("{at}: {fault}")),
            );
            let container = job.container.get("image").unwrap_or(&job.container);
            if let Some(image) = container.as_str() {
                containers.entry(image.to_owned()).or_insert(at);
            }
        }
    }
    if containers.len() > 1 {
        faults.push(format!("containers differ, which should be one: {containers:?}"));
    }
    Ok(faults)
}

/// The targets that `make` lists.
fn targets(root: &Path) -> Result<Vec<String>> {
    let makefile = fs::read_to_string(root.join("Makefile")).context("failed to read Makefile")?;
    let phony = makefile.lines().find_map(|line| line.strip_prefix(".PHONY:"));
    let phony = phony.context("the Makefile names no targets in .PHONY")?;
    Ok(phony.split_whitespace().map(str::to_owned).collect())
}

/// What there is to call.
struct Checkout<'a> {
    root: &'a Path,
    /// Of make.
    targets: Vec<String>,
    xtask: &'a clap::Command,
}

impl Checkout<'_> {
    fn job(&self, workflow: &Workflow, job: &Job) -> Vec<String> {
        let mut faults = Vec::new();
        let needs = match &job.needs {
            Value::Array(needs) => needs.as_slice(),
            Value::Null => &[],
            one => std::slice::from_ref(one),
        };
        for need in needs.iter().filter_map(Value::as_str) {
            if !workflow.jobs.contains_key(need) {
                faults.push(format!("needs the job \"{need}\", which is not there"));
            }
        }
        let used = job
            .uses
            .iter()
            .chain(job.steps.iter().filter_map(|step| step.uses.as_ref()));
        for used in used {
            let file = used.strip_prefix("$/").or_else(|| used.strip_prefix("./"));
            if file.is_some_and(|file| !self.root.join(file).exists()) {
                faults.push(format!("uses {used}, which is not there"));
            }
        }
        for step in &job.steps {
            let Some(script) = &step.run else { continue };
            for row in rows(&job.strategy.matrix) {
                let variables = variables([&workflow.env, &job.env, &step.env], &row);
                let found = match &variables {
                    Ok(variables) => commands(script, variables),
                    Err(fault) => Err(fault.clone()),
                };
                let found =
                    found.and_then(|commands| commands.iter().try_for_each(|words| self.command(words)));
                if let Err(fault) = found {
                    let fault = format!("{fault} (run: {})", script.trim());
                    if !faults.contains(&fault) {
                        faults.push(fault);
                    }
                }
            }
        }
        faults
    }

    /// Whether what a command calls exists.
    fn command(&self, words: &[String]) -> Result<(), String> {
        // Variables that are set for this command, and the way to be root.
        let is_assignment = |word: &String| word.split_once('=').is_some_and(|(name, _)| is_name(name));
        let words: Vec<&str> = words
            .iter()
            .skip_while(|word| is_assignment(word) || *word == "sudo")
            .map(String::as_str)
            .collect();
        match words.as_slice() {
            [] => Ok(()),
            ["make", targets @ ..] => {
                let unknown = targets
                    .iter()
                    .find(|target| !self.targets.iter().any(|it| it == *target));
                match unknown {
                    Some(unknown) => Err(format!("make has no target \"{unknown}\"")),
                    None if targets.is_empty() => Err("make is called without a target".to_owned()),
                    None => Ok(()),
                }
            }
            ["cargo", "xtask", arguments @ ..] => {
                let line = std::iter::once(&"cargo xtask").chain(arguments);
                match self.xtask.clone().try_get_matches_from(line) {
                    Ok(_) => Ok(()),
                    Err(error) => {
                        let error = error.to_string();
                        let first = error.lines().next().unwrap_or_default();
                        Err(first.trim_start_matches("error: ").to_owned())
                    }
                }
            }
            ["cargo", command, ..] if CARGO.contains(command) => Ok(()),
            [program, arguments @ ..] if program.contains('/') => self.script(program, arguments),
            [program, ..] if OUTSIDE.iter().any(|(name, _)| name == program) => Ok(()),
            [program, ..] => Err(format!(
                "\"{program}\" is neither a command of this checkout nor one that a step may call"
            )),
        }
    }

    /// Whether a script is there, can be run, and says in its usage that it knows its arguments.
    fn script(&self, program: &str, arguments: &[&str]) -> Result<(), String> {
        let path = self.root.join(program);
        let Ok(metadata) = fs::metadata(&path) else {
            return Err(format!("{program} is not there"));
        };
        if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
            return Err(format!("{program} cannot be run"));
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let Some((_, usage)) = text.split_once("usage: ") else {
            return Ok(());
        };
        let usage = usage.lines().next().unwrap_or_default();
        let known: Vec<_> = usage
            .split(|letter: char| !letter.is_alphanumeric() && letter != '-')
            .collect();
        match arguments
            .iter()
            .find(|word| !word.starts_with('-') && !known.contains(word))
        {
            Some(unknown) => Err(format!("{program} does not know \"{unknown}\"")),
            None => Ok(()),
        }
    }
}

/// Rows of a matrix that together have each of its values; one that is empty where there is no matrix, or none that is known yet.
fn rows(matrix: &Value) -> Vec<BTreeMap<String, String>> {
    let mut columns: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key, values) in matrix.as_object().into_iter().flatten() {
        for value in values.as_array().into_iter().flatten() {
            match value {
                Value::Object(row) => {
                    for (key, value) in row {
                        columns.entry(key).or_default().push(text(value));
                    }
                }
                value => columns.entry(key).or_default().push(text(value)),
            }
        }
    }
    let length = columns.values().map(Vec::len).max().unwrap_or(1);
    (0..length)
        .map(|at| {
            columns
                .iter()
                .map(|(key, values)| ((*key).to_owned(), values[at % values.len()].clone()))
                .collect()
        })
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What the variables of a step are, the inner before the outer, as far as this row of the matrix says.
fn variables(
    scopes: [&Variables; 3],
    row: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, String> {
    let mut variables = BTreeMap::new();
    for (name, value) in scopes.into_iter().flatten() {
        let value = text(value);
        let key = value
            .strip_prefix("${{ matrix.")
            .and_then(|it| it.strip_suffix(" }}"));
        let value = match key {
            Some(key) if !row.is_empty() => row.get(key).ok_or(format!("the matrix has no \"{key}\""))?,
            _ => &value,
        };
        variables.insert(name.clone(), value.clone());
    }
    Ok(variables)
}

fn is_name(word: &str) -> bool {
    !word.is_empty()
        && word
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The commands of a shell's script, as words, with known variables put in and without redirections. A step is no place for more
/// of the language than that: loops, conditions and substitutions belong into a command that runs here too.
fn commands(script: &str, variables: &BTreeMap<String, String>) -> Result<Vec<Vec<String>>, String> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut redirected = false;
    let mut letters = script.chars().peekable();
    // Ends a word; one that says where output goes is none.
    let end = |word: &mut Option<String>, redirected: &mut bool, commands: &mut Vec<Vec<String>>| {
        if let Some(word) = word.take()
            && !std::mem::take(redirected)
            && let Some(command) = commands.last_mut()
        {
            command.push(word);
        }
    };
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (Some('\''), _) => word.get_or_insert_default().push(letter),
            (_, '$') => {
                let mut name = String::new();
                let braced = letters.next_if_eq(&'{').is_some();
                while let Some(letter) = letters.next_if(|it| it.is_ascii_alphanumeric() || *it == '_') {
                    name.push(letter);
                }
                if name.is_empty() || (braced && letters.next_if_eq(&'}').is_none()) {
                    return Err("only plain variables may stand after \"$\"".to_owned());
                }
                let value = variables.get(&name).cloned().unwrap_or(format!("${name}"));
                word.get_or_insert_default().push_str(&value);
            }
            (_, '`') => return Err("only plain variables are put in".to_owned()),
            (_, '\\') => match letters.next() {
                Some('\n') | None => {}
                Some(letter) => word.get_or_insert_default().push(letter),
            },
            (None, '#') if word.is_none() => while letters.next_if(|it| *it != '\n').is_some() {},
            (None, '\n' | ';' | '&' | '|') => {
                end(&mut word, &mut redirected, &mut commands);
                commands.push(Vec::new());
            }
            (None, '>' | '<') => {
                end(&mut word, &mut redirected, &mut commands);
                redirected = true;
            }
            (None, letter) if letter.is_whitespace() => end(&mut word, &mut redirected, &mut commands),
            (_, letter) => word.get_or_insert_default().push(letter),
        }
    }
    end(&mut word, &mut redirected, &mut commands);
    commands.retain(|command| !command.is_empty());
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    fn xtask() -> clap::Command {
        <crate::Arguments as clap::CommandFactory>::command()
    }

    #[test]
    fn workflows_call_only_what_is_here() {
        assert_eq!(faults(&root(), &xtask()).unwrap(), [""; 0]);
    }

    /// A checkout of one workflow, whose job has this `run:` and a matrix.
    fn faults_of(run: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        fs::create_dir_all(at(".github/workflows")).unwrap();
        fs::create_dir(at(".ci")).unwrap();
        fs::write(at("Makefile"), ".PHONY: lint test\n").unwrap();
        fs::write(at(".ci/setup"), "echo 'usage: .ci/setup [images | test]'\n").unwrap();
        fs::set_permissions(at(".ci/setup"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(at(".ci/env"), "").unwrap();
        let workflow = serde_json::json!({ "jobs": { "test": {
            "strategy": { "matrix": { "word": ["check", "chekc"] } },
            "steps": [{ "run": run, "env": { "WORD": "${{ matrix.word }}", "GOOD": "lint" } }],
        } } });
        fs::write(at(".github/workflows/ci.yml"), workflow.to_string()).unwrap();
        faults(directory.path(), &xtask()).unwrap()
    }

    #[test]
    fn what_a_step_may_call() {
        for run in [
            "make lint",
            "make \"$GOOD\"",
            "FRUIT=apple make lint test",
            ".ci/setup\n.ci/setup test # all",
            ".ci/setup --quiet images >>\"$GITHUB_OUTPUT\"",
            "cargo xtask release notes >target/notes.md && cargo xtask release check \\\n v0.1.0",
            "cargo deny check advisories",
            "sudo apt-get update; printf '%s' \"$TOKEN\" | docker login ghcr.io",
        ] {
            assert_eq!(faults_of(run), [""; 0], "{run}");
        }
    }

    #[test]
    fn a_typo_is_named() {
        for (run, fault) in [
            ("make lnit", "make has no target \"lnit\""),
            ("make", "without a target"),
            ("cargo xtask relaese notes", "unrecognized subcommand 'relaese'"),
            ("cargo xtask release ntoes", "unrecognized subcommand 'ntoes'"),
            (
                "cargo xtask release chart --registy ghcr.io/me",
                "unexpected argument '--registy'",
            ),
            (
                "cargo xtask release \"$WORD\" v0.1.0",
                "unrecognized subcommand 'chekc'",
            ),
            ("cargo biuld", "\"cargo\" is neither"),
            (".ci/stup", ".ci/stup is not there"),
            (".ci/env", ".ci/env cannot be run"),
            (".ci/setup tset", ".ci/setup does not know \"tset\""),
            ("make lint && shelcheck .ci/setup", "\"shelcheck\" is neither"),
            ("for it in 1 2; do make lint; done", "\"for\" is neither"),
            ("make $(echo lint)", "only plain variables"),
        ] {
            let faults = faults_of(run);
            assert!(
                faults.len() == 1 && faults[0].contains(fault),
                "{run}: {faults:?}"
            );
        }
    }
}
