//! Every program is taken by the running kernel's verifier, and by those of guests (`VM_KERNELS`, `cargo xtask vm`).

use std::{
    env,
    io::{self, Write as _},
    time::Duration,
};

use agent::bpf::{Hook, preflight, verify};
use testkit::results::record;
use testkit::turn::Turn;

/// What the verifiers of the virtual machines' kernels walked through when it was last looked at, as lines of kernel,
/// hook, program and count. To be made anew with what this test prints (docs/internals/development.md).
const RECORDED: &str = include_str!("../golden/verified-instructions.txt");

/// In place of a count where the kernel does not tell it: before Linux 5.16.
const UNKNOWN: &str = "unknown";

/// A program may take a fifth more than recorded: other versions of a kernel and of the compiler differ a little.
const TOLERANCE: f64 = 1.2;

#[test]
fn every_program_passes_the_verifier() {
    let _turn = Turn::of(module_path!());
    let kernel = env::var("TEST_KERNEL");
    let mut unlike = Vec::new();
    let wanted = env::var("TEST_HOOKS").unwrap_or_default();
    let is_wanted = |hook: &Hook| wanted.is_empty() || wanted.split(' ').any(|name| name == hook.name());
    for hook in Hook::ALL.into_iter().filter(is_wanted) {
        match verify(hook) {
            Ok(programs) => {
                assert!(programs.len() > 2, "{hook}: {programs:?}");
                for (program, instructions) in programs {
                    record(&format!("{hook} {program}"), Ok(()), Duration::ZERO);
                    if let Ok(kernel) = &kernel {
                        let count = instructions.map_or(UNKNOWN.to_owned(), |count| count.to_string());
                        // Written past the test harness, which would keep it to itself.
                        let _ = writeln!(io::stderr(), "{kernel} {hook} {program} {count}");
                        unlike.extend(unlike_recorded(kernel, hook, program, instructions));
                    }
                }
            }
            // A locked-down host refuses trampolines whatever the program; the virtual machines do not.
            Err(error) => {
                assert!(hook == Hook::Fentry && kernel.is_err(), "{hook}: {error}");
                assert!(error.to_string().contains("refuses BPF trampolines"), "{error}");
            }
        }
    }
    assert!(unlike.is_empty(), "{unlike:#?}");
}

/// What is wrong with a count, if anything.
fn unlike_recorded(kernel: &str, hook: Hook, program: &str, count: Option<u32>) -> Option<String> {
    let name = format!("{kernel} {hook} {program} ");
    let Some(recorded) = RECORDED.lines().find_map(|line| line.strip_prefix(&name)) else {
        return Some(format!("{name}is not recorded ({count:?})"));
    };
    let Some(count) = count else {
        return (recorded != UNKNOWN).then(|| format!("{name}is not told: {recorded} are recorded"));
    };
    let recorded: u32 = recorded.parse().expect("a recorded count");
    (f64::from(count) > f64::from(recorded) * TOLERANCE)
        .then(|| format!("{name}{count}: {recorded} are recorded"))
}

#[test]
fn preflight_tells_which_hook_auto_takes() {
    let _turn = Turn::of(module_path!());
    let rows = preflight().rows;
    let taken: Vec<_> = rows
        .iter()
        .filter(|row| row.detail.contains("auto takes it"))
        .collect();
    assert_eq!(taken.len(), 1, "{rows:?}");
    if env::var("TEST_KERNEL").is_ok() {
        assert_eq!(taken[0].what, "hook fentry", "{rows:?}");
    }
}
