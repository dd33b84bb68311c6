//! The compiled programs, in the form that the running kernel takes.

use std::borrow::Cow;

use object::{Object as _, ObjectSection as _};

use super::btf::Btf;

/// The programs, compiled by the build script.
#[cfg(not(bpf_stub))]
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/http-statistics"));

/// Nothing: the build script found no BPF toolchain.
#[cfg(bpf_stub)]
pub(super) static OBJECT: &[u8] = &[];

/// The first kernel whose verifier takes a global function with pointers (`btf_prepare_func_args`).
const POINTERS_IN_GLOBAL_FUNCTIONS: (u32, u32) = (5, 13);

/// [`OBJECT`] for a kernel of that version. Before [`POINTERS_IN_GLOBAL_FUNCTIONS`] the functions that the verifier would check
/// once are static, and are checked at every call.
pub(super) fn for_kernel(version: Option<(u32, u32)>) -> Cow<'static, [u8]> {
    if version.is_some_and(|version| version < POINTERS_IN_GLOBAL_FUNCTIONS) {
        with_static_functions(OBJECT).map_or(Cow::Borrowed(OBJECT), Cow::Owned)
    } else {
        Cow::Borrowed(OBJECT)
    }
}

/// The object with every global function that takes a pointer made static; nothing if it has no type information.
fn with_static_functions(object: &[u8]) -> Option<Vec<u8>> {
    const STATIC: u32 = 0;
    const FUNC: u32 = 12 << 24;
    let file = object::File::parse(object).ok()?;
    let section = file.section_by_name(".BTF")?;
    let (start, len) = section.file_range()?;
    let (start, len) = (usize::try_from(start).ok()?, usize::try_from(len).ok()?);
    let btf = Btf::parse(object.get(start..start + len)?.to_vec()).ok()?;
    let mut object = object.to_vec();
    for at in btf.global_functions_with_pointers() {
        object
            .get_mut(start + at..start + at + 4)?
            .copy_from_slice(&(FUNC | STATIC).to_ne_bytes());
    }
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Global functions with pointers of an object.
    fn functions(object: &[u8]) -> usize {
        let file = object::File::parse(object).unwrap();
        let section = file.section_by_name(".BTF").unwrap();
        Btf::parse(section.data().unwrap().to_vec())
            .unwrap()
            .global_functions_with_pointers()
            .len()
    }

    #[test]
    #[cfg_attr(bpf_stub, ignore = "built without the programs")]
    fn an_old_kernel_gets_static_functions() {
        // The programs themselves are among them: those take their context.
        assert!(functions(&for_kernel(Some((5, 13)))) > 2);
        assert!(functions(&for_kernel(None)) > 2);
        let old = for_kernel(Some((5, 12)));
        assert_eq!(functions(&old), 0);
        assert_eq!(old.len(), OBJECT.len());
    }
}
