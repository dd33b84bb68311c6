//! Builds the programs for the kernel (bin `http-statistics` of `agent-ebpf`) and leaves them at
//! `$OUT_DIR/http-statistics`, from where the agent embeds them.
//!
//! They need a compiler with the BPF target and bpf-linker. Where one of these is missing the object is left empty and
//! `cfg(bpf_stub)` is set, so that check, clippy, doc and every test that loads no program still work.
//! A program that does not compile is always an error.
//!
//! | variable | effect |
//! |---|---|
//! | `SCOPE_HTTP_STATISTICS_BPF_TOOLCHAIN` | `debian`, or the name of a rustup toolchain: do not look for another |
//! | `SCOPE_HTTP_STATISTICS_BPF_SKIP=1` | leave the object empty on purpose |
//! | `SCOPE_HTTP_STATISTICS_BPF_REQUIRED=1` | a missing toolchain is an error: what is built shall be run |
//! | `SCOPE_HTTP_STATISTICS_CACHE` | where `.ci/setup` puts bpf-linker |
#![expect(clippy::print_stderr, reason = "a build script tells its failure to cargo so")]

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};

const TOOLCHAIN: &str = "SCOPE_HTTP_STATISTICS_BPF_TOOLCHAIN";
const SKIP: &str = "SCOPE_HTTP_STATISTICS_BPF_SKIP";
const REQUIRED: &str = "SCOPE_HTTP_STATISTICS_BPF_REQUIRED";
const CACHE: &str = "SCOPE_HTTP_STATISTICS_CACHE";

/// The binary target of `agent-ebpf`.
const OBJECT: &str = "http-statistics";

/// Where distributions put their compiler. Asked for by its full path: rustup's proxies come first in many a PATH.
const SYSTEM_BIN: &str = "/usr/bin";

/// The wrappers and flags of the outer build mean its target, not BPF; so does all of `CARGO_*` but this.
const KEPT_CARGO_VARIABLES: [&str; 7] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
    "CARGO_UNSTABLE_",
];

fn main() -> ExitCode {
    // Not `-> Result`: with RUST_BACKTRACE set, the compiler's words would be lost below a backtrace.
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    for path in [
        "build.rs",
        "../agent-ebpf/Cargo.toml",
        "../agent-ebpf/src",
        "../Cargo.toml",
        "../Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    for variable in [TOOLCHAIN, SKIP, CACHE] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rustc-check-cfg=cfg(bpf_stub)");

    let object = PathBuf::from(variable("OUT_DIR")?).join(OBJECT);
    if is_set(SKIP) {
        return write_stub(&object);
    }
    match Tools::find() {
        Ok(tools) => tools.build(&object),
        Err(missing) => {
            println!("cargo::rerun-if-env-changed={REQUIRED}");
            if is_set(REQUIRED) {
                bail!("the eBPF programs cannot be built: {missing:#}");
            }
            println!("cargo::warning=built without the eBPF programs, the agent will not run: {missing:#}");
            // A path that is not there makes cargo look again at the next build, when the tools may be.
            println!("cargo::rerun-if-changed=looking-for-bpf-tools");
            write_stub(&object)
        }
    }
}

/// All that the inner build needs.
struct Tools {
    compiler: Compiler,
    linker: PathBuf,
    target: &'static str,
}

/// Who compiles for BPF.
enum Compiler {
    /// A stable compiler with a prebuilt `core` for the BPF target, such as Debian's rustc-web.
    System,
    /// A nightly of rustup with `rust-src`: `core` is built with the programs.
    Rustup(String),
}

impl Tools {
    fn find() -> Result<Self> {
        let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
            "big" => "bpfeb-unknown-none",
            _ => "bpfel-unknown-none",
        };
        let compiler = match env::var(TOOLCHAIN) {
            Ok(name) if name == "debian" => Compiler::system(target)?,
            Ok(name) => Compiler::rustup(&name)?,
            Err(_) => match Compiler::system(target) {
                Ok(compiler) => compiler,
                Err(system) => Compiler::rustup("nightly").with_context(|| {
                    format!("{system:#} (on Debian run `.ci/setup`), and of rustup's toolchains")
                })?,
            },
        };
        let linker = find_linker()?;
        Ok(Self {
            compiler,
            linker,
            target,
        })
    }

    /// Compiles the programs in a target directory of their own: cargo would wait for itself in the outer one.
    fn build(&self, object: &Path) -> Result<()> {
        let target_dir = object.with_file_name("bpf-target");
        let arch = variable("CARGO_CFG_TARGET_ARCH")?;
        let flags = [
            format!("--cfg=bpf_target_arch=\"{arch}\""),
            // BTF is made from debug info.
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            format!("-Clinker={}", self.linker.display()),
        ];

        let mut cargo = self.compiler.cargo();
        cargo
            .args([
                "build",
                "--quiet",
                "--locked",
                "--release",
                "--package",
                "agent-ebpf",
                "--bin",
                OBJECT,
            ])
            .args(["--target", self.target])
            .arg("--target-dir")
            .arg(&target_dir)
            .current_dir(Path::new(&variable("CARGO_MANIFEST_DIR")?).join(".."))
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        let output = cargo
            .output()
            .with_context(|| format!("failed to run {cargo:?}"))?;

        let diagnostics = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            eprintln!("{diagnostics}");
            bail!("the eBPF programs do not build (cargo: {})", output.status);
        }
        for line in diagnostics.lines() {
            println!("cargo::warning={line}");
        }
        let built = target_dir.join(self.target).join("release").join(OBJECT);
        fs::copy(&built, object).with_context(|| format!("failed to copy {}", built.display()))?;
        Ok(())
    }
}

impl Compiler {
    /// The distribution's compiler, if it has `core` for `target`.
    fn system(target: &str) -> Result<Self> {
        let mut rustc = Command::new(Path::new(SYSTEM_BIN).join("rustc"));
        let library = sysroot(&mut rustc)?.join("lib/rustlib").join(target).join("lib");
        let has_core = fs::read_dir(&library)
            .is_ok_and(|entries| entries.flatten().any(|entry| is_core(&entry.file_name())));
        ensure!(
            has_core,
            "{SYSTEM_BIN}/rustc has no `core` for {target} (Debian: libstd-rust-web-dev-bpf)"
        );
        ensure!(
            Path::new(SYSTEM_BIN).join("cargo").exists(),
            "{SYSTEM_BIN}/cargo is missing (Debian: cargo-web)"
        );
        Ok(Self::System)
    }

    /// The toolchain `name` of rustup, if it has the source of `core`.
    fn rustup(name: &str) -> Result<Self> {
        let fix = || {
            format!("no `{name}` with rust-src (run `rustup toolchain install {name} --component rust-src`)")
        };
        let mut rustc = rustup_run(name, "rustc");
        let source = sysroot(&mut rustc)
            .with_context(fix)?
            .join("lib/rustlib/src/rust/library/core");
        ensure!(source.exists(), fix());
        Ok(Self::Rustup(name.to_owned()))
    }

    /// This compiler's cargo, free of what the outer build has set.
    fn cargo(&self) -> Command {
        let mut cargo = match self {
            Self::System => Command::new(Path::new(SYSTEM_BIN).join("cargo")),
            Self::Rustup(name) => rustup_run(name, "cargo"),
        };
        for (name, _) in env::vars_os() {
            let name = name.to_string_lossy();
            let is_kept = KEPT_CARGO_VARIABLES.iter().any(|kept| name.starts_with(kept));
            let is_outer = name.starts_with("CARGO") && !is_kept
                || name.starts_with("RUSTC")
                || matches!(&*name, "RUSTDOC" | "RUSTFLAGS" | "RUSTUP_TOOLCHAIN");
            if is_outer {
                cargo.env_remove(&*name);
            }
        }
        match self {
            // aya-ebpf uses one unstable feature; all other crates stay on the stable language.
            Self::System => cargo
                .env("RUSTC", Path::new(SYSTEM_BIN).join("rustc"))
                .env("RUSTC_BOOTSTRAP", "aya_ebpf,http_statistics"),
            Self::Rustup(_) => cargo.args(["-Z", "build-std=core"]),
        };
        cargo
    }
}

/// bpf-linker: the one that `.ci/setup` has built against the LLVM of Debian's compiler, else the one on the PATH.
fn find_linker() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    cache_directory()
        .map(|cache| cache.join("bin"))
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|directory| directory.join("bpf-linker"))
        .find(|linker| linker.is_file())
        .context("bpf-linker is missing (on Debian run `.ci/setup`, elsewhere `cargo install bpf-linker`)")
}

/// The cache of `.ci/setup`.
fn cache_directory() -> Option<PathBuf> {
    env::var_os(CACHE).map(PathBuf::from).or_else(|| {
        let user_cache = env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))?;
        Some(user_cache.join("scope-http-statistics"))
    })
}

fn rustup_run(toolchain: &str, program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, program]);
    command
}

fn sysroot(rustc: &mut Command) -> Result<PathBuf> {
    rustc.args(["--print", "sysroot"]);
    let program = rustc.get_program().to_owned();
    let output = rustc
        .output()
        .with_context(|| format!("{} is missing", program.display()))?;
    ensure!(
        output.status.success(),
        "{} --print sysroot failed",
        program.display()
    );
    let path = String::from_utf8(output.stdout).context("the sysroot is no UTF-8")?;
    Ok(PathBuf::from(path.trim_end()))
}

fn is_core(file: &OsStr) -> bool {
    let file = Path::new(file);
    file.extension() == Some(OsStr::new("rlib")) && file.to_string_lossy().starts_with("libcore-")
}

fn write_stub(object: &Path) -> Result<()> {
    println!("cargo::rustc-cfg=bpf_stub");
    fs::write(object, []).with_context(|| format!("failed to write {}", object.display()))
}

fn is_set(name: &str) -> bool {
    env::var(name).is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("{name} is not set: run this by cargo"))
}
