//! `cargo xtask fuzz`: the framing engine under libFuzzer.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::workspace::{Workspace, line_of, run};

/// Fuzz the framing engine
///
/// With libFuzzer and a stable compiler: the instrumentation is asked for by hand, which is what cargo-fuzz does with a
/// nightly one. What is found stays in agent-ebpf/fuzz/artifacts; the corpus grows in the target directory.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long
    #[arg(default_value_t = 60)]
    seconds: u64,
}

/// Fewer inputs than these in a run are no fuzzing: it is some 30,000 in each second.
const FEWEST_INPUTS: u64 = 10_000;

const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

impl Arguments {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<()> {
        let source = workspace.root.join("agent-ebpf/fuzz");
        let target = workspace.target.join("fuzz");
        let corpus = target.join("corpus");
        for directory in [&corpus, &source.join("artifacts")] {
            fs::create_dir_all(directory)
                .with_context(|| format!("failed to make {}", directory.display()))?;
        }
        // A target of its own, so that build scripts are not instrumented.
        run(workspace
            .command("cargo")
            .args(["build", "--quiet", "--release", "--target", &workspace.host])
            .current_dir(&source)
            .env("CARGO_TARGET_DIR", &target)
            .env("RUSTFLAGS", FLAGS))?;
        let inputs = self.fuzz(
            workspace,
            &source,
            &target.join(&workspace.host).join("release/framing-fuzz"),
            &corpus,
        )?;
        ensure!(
            inputs >= FEWEST_INPUTS,
            "only {inputs} inputs were tried in {} s",
            self.seconds
        );
        println!("{inputs} inputs in {} s: nothing found", self.seconds);
        Ok(())
    }

    fn fuzz(&self, workspace: &Workspace, source: &Path, program: &Path, corpus: &Path) -> Result<u64> {
        let mut fuzz = workspace.command(program);
        fuzz.current_dir(source)
            .arg(format!("-max_total_time={}", self.seconds))
            // Seconds that one input may take, which is what "runs away" means.
            .args([
                "-max_len=4096",
                "-timeout=10",
                "-print_final_stats=1",
                "-verbosity=0",
            ])
            .arg("-artifact_prefix=artifacts/")
            .arg(corpus)
            .arg("seeds")
            .env_remove("RUST_BACKTRACE");
        let output = fuzz
            .output()
            .with_context(|| format!("failed to run {}", program.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{} ({}):\n{said}",
            line_of(&fuzz),
            output.status
        );
        executed(&said).with_context(|| format!("libFuzzer does not say how much it has done:\n{said}"))
    }
}

/// Of `-print_final_stats=1`.
fn executed(said: &str) -> Option<u64> {
    said.lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statistics_of_libfuzzer_tell_how_much_was_tried() {
        let said =
            "Done 12 runs\nstat::number_of_executed_units: 2403311\nstat::average_exec_per_sec:     39398\n";
        assert_eq!(executed(said), Some(2_403_311));
        assert_eq!(executed("Done"), None);
    }
}
