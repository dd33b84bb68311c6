//! Every program is taken by the running kernel's verifier, and by those of the virtual machines (`VM_KERNELS`).

use std::{
    env,
    io::{self, Write as _},
};

use agent::bpf::{Hook, preflight, verify};

#[test]
fn every_program_passes_the_verifier() {
    let kernel = env::var("TEST_KERNEL");
    for hook in Hook::ALL {
        match verify(hook) {
            Ok(programs) => {
                assert!(programs.len() > 2, "{hook}: {programs:?}");
                for (program, instructions) in programs {
                    let count = instructions.map_or("unknown".to_owned(), |count| count.to_string());
                    // Written past the test harness, which would keep it to itself.
                    let _ = writeln!(io::stderr(), "verified instructions: {hook} {program} {count}");
                }
            }
            // A locked-down host refuses trampolines whatever the program; the virtual machines do not.
            Err(error) => {
                assert!(hook == Hook::Fentry && kernel.is_err(), "{hook}: {error}");
                assert!(error.to_string().contains("refuses BPF trampolines"), "{error}");
            }
        }
    }
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
