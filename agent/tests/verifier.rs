//! Every program is taken by the running kernel's verifier, and by those of the virtual machines (`VM_KERNELS`).

use std::{
    env,
    io::{self, Write as _},
};

use agent::bpf::{Hook, preflight, verify};

/// What the verifiers of the virtual machines' kernels walked through when it was last looked at, as lines of kernel,
/// hook, program and count. To be made anew with what this test prints (docs/development.md).
const RECORDED: &str = include_str!("golden/verified-instructions.txt");

/// A program may take a fifth more than recorded: other versions of a kernel and of the compiler differ a little.
const TOLERANCE: f64 = 1.2;

#[test]
fn every_program_passes_the_verifier() {
    let kernel = env::var("TEST_KERNEL");
    let mut unlike = Vec::new();
    for hook in Hook::ALL {
        match verify(hook) {
            Ok(programs) => {
                assert!(programs.len() > 2, "{hook}: {programs:?}");
                for (program, instructions) in programs {
                    let count = instructions.map_or("unknown".to_owned(), |count| count.to_string());
                    let at = kernel.as_deref().unwrap_or("host");
                    // Written past the test harness, which would keep it to itself.
                    let _ = writeln!(
                        io::stderr(),
                        "verified instructions: {at} {hook} {program} {count}"
                    );
                    if let (Ok(kernel), Some(count)) = (&kernel, instructions) {
                        unlike.extend(unlike_recorded(kernel, hook, program, count));
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
fn unlike_recorded(kernel: &str, hook: Hook, program: &str, count: u32) -> Option<String> {
    let name = format!("{kernel} {hook} {program} ");
    let Some(recorded) = RECORDED.lines().find_map(|line| line.strip_prefix(&name)) else {
        return Some(format!("{name}{count} is not recorded"));
    };
    let recorded: u32 = recorded.parse().expect("a recorded count");
    (f64::from(count) > f64::from(recorded) * TOLERANCE)
        .then(|| format!("{name}{count}: {recorded} are recorded"))
}

#[test]
fn preflight_tells_which_hook_auto_takes() {
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
