//! The compiled programs, and what has to be changed in them before they are loaded.

use agent_ebpf::abi::calls;

/// The programs, compiled by the build script.
#[cfg(not(bpf_stub))]
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/http-statistics"));

/// Nothing: the build script found no BPF toolchain.
#[cfg(bpf_stub)]
pub(super) static OBJECT: &[u8] = &[];

/// Numbers of the running kernel's `bpf_preempt_disable` and `bpf_preempt_enable` (since Linux 6.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PreemptionCalls {
    pub(super) disable: u32,
    pub(super) enable: u32,
}

/// The object with its calls of kernel functions made real, or made to do nothing. `aya` knows no kfuncs.
pub(super) fn with_calls(functions: Option<PreemptionCalls>) -> Vec<u8> {
    let replacements = [
        (
            calls::PREEMPT_DISABLE,
            functions.map(|functions| functions.disable),
        ),
        (calls::PREEMPT_ENABLE, functions.map(|functions| functions.enable)),
    ];
    let mut object = OBJECT.to_vec();
    // Code sections are aligned to instructions, which have eight bytes each.
    for instruction in object.chunks_exact_mut(8) {
        for (placeholder, function) in replacements {
            if instruction == encode(CALL, 0, placeholder.cast_unsigned()) {
                let real = function.map_or(encode(MOVE, 0, 0), |number| {
                    encode(CALL, PSEUDO_KFUNC_CALL, number)
                });
                instruction.copy_from_slice(&real);
            }
        }
    }
    object
}

/// `BPF_JMP | BPF_CALL` and `BPF_ALU64 | BPF_MOV | BPF_K` (include/uapi/linux/bpf.h). To set register 0 to 0, which a
/// call may change anyway, is what comes closest to doing nothing.
const CALL: u8 = 0x85;
const MOVE: u8 = 0xb7;

/// `BPF_PSEUDO_KFUNC_CALL`, as source register of a call.
const PSEUDO_KFUNC_CALL: u8 = 2;

/// One instruction: code, registers, no offset, immediate.
fn encode(code: u8, source: u8, immediate: u32) -> [u8; 8] {
    let registers = if cfg!(target_endian = "big") {
        source
    } else {
        source << 4
    };
    let [a, b, c, d] = immediate.to_ne_bytes();
    [code, registers, 0, 0, a, b, c, d]
}

#[cfg(all(test, not(bpf_stub)))]
mod tests {
    use super::*;

    fn count(object: &[u8], instruction: [u8; 8]) -> usize {
        object
            .chunks_exact(8)
            .filter(|found| *found == instruction)
            .count()
    }

    #[test]
    fn every_call_of_a_kernel_function_is_replaced() {
        let placeholder = encode(CALL, 0, calls::PREEMPT_DISABLE.cast_unsigned());
        let calls = count(OBJECT, placeholder);
        assert!(calls > 0);

        let real = with_calls(Some(PreemptionCalls {
            disable: 4711,
            enable: 4712,
        }));
        assert_eq!(count(&real, placeholder), 0);
        assert_eq!(count(&real, encode(CALL, PSEUDO_KFUNC_CALL, 4711)), calls);
        assert!(count(&real, encode(CALL, PSEUDO_KFUNC_CALL, 4712)) >= calls);

        let without = with_calls(None);
        assert_eq!(count(&without, placeholder), 0);
        assert_eq!(without.len(), OBJECT.len());
    }
}
