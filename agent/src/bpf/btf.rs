//! The kernel's own type information: where fields are, what functions take.
//!
//! A reader for the BPF Type Format (Documentation/bpf/btf.rst) that answers a few questions and keeps nothing but
//! the blob: `aya`'s parser does not give members away, and the other readers are LGPL or unmaintained.

use std::{fs, io};

use thiserror::Error;

/// Where the running kernel shows its BTF (`CONFIG_DEBUG_INFO_BTF`).
pub(super) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;

/// Kinds of type, as far as they are told apart (include/uapi/linux/btf.h).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// Why there is no BTF to be had.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error("failed to read {VMLINUX}")]
    Read(#[source] io::Error),
    /// It is not BTF, or not as far as its header says.
    #[error("failed to understand {VMLINUX}: {0}")]
    Malformed(&'static str),
}

/// Parsed BTF.
pub(super) struct Btf {
    data: Vec<u8>,
    /// Byte offset in `data` of each type, by id; id 0 is `void` and has none.
    types: Vec<u32>,
    strings: usize,
}

/// One type's fixed part.
#[derive(Clone, Copy)]
struct Type {
    kind: u32,
    /// Number of members, values or parameters.
    len: u32,
    /// Bit 31 of `info`: bit fields in a structure, signed values in an enumeration.
    flag: bool,
    /// `size` or `type`: the size in bytes, or the type referred to.
    operand: u32,
    /// Where the variable part is in the blob.
    rest: usize,
}

impl Btf {
    /// Reads the running kernel's.
    pub(super) fn of_kernel() -> Result<Self, BtfError> {
        Self::parse(fs::read(VMLINUX).map_err(BtfError::Read)?)
    }

    /// Takes a blob in this machine's byte order.
    pub(super) fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let short = || BtfError::Malformed("shorter than its header says");
        let word = |at: usize| u32_at(&data, at).ok_or_else(short);
        if data.get(..2) != Some(&MAGIC.to_ne_bytes()) {
            return Err(BtfError::Malformed("no BTF magic number"));
        }
        let header = word(4)? as usize;
        let (types_at, types_len) = (header + word(8)? as usize, word(12)? as usize);
        let (strings, strings_len) = (header + word(16)? as usize, word(20)? as usize);
        if data.len() < strings + strings_len || data.len() < types_at + types_len {
            return Err(short());
        }
        let mut btf = Self {
            data,
            types: vec![0],
            strings,
        };
        let mut at = types_at;
        while at < types_at + types_len {
            let found = btf.type_at(at).ok_or_else(short)?;
            btf.types
                .push(u32::try_from(at).map_err(|_too_large| BtfError::Malformed("larger than 4 GiB"))?);
            at = found.rest + rest_len(&found)?;
        }
        Ok(btf)
    }

    /// Byte offset of a field in a structure. `path` is the field's name, or several with dots between them for
    /// fields of fields; unnamed structures and unions in between are looked through.
    pub(super) fn offset(&self, structure: &str, path: &str) -> Option<u32> {
        let mut id = self.find(kind::STRUCT, structure)?;
        let mut bits = 0;
        for name in path.split('.') {
            let (offset, member) = self.member(id, name)?;
            bits += offset;
            id = member;
        }
        Some(bits / 8)
    }

    /// Size of a structure in bytes.
    pub(super) fn size(&self, structure: &str) -> Option<u32> {
        Some(self.by_id(self.find(kind::STRUCT, structure)?)?.operand)
    }

    /// Value of an enumerator.
    pub(super) fn enumerator(&self, enumeration: &str, name: &str) -> Option<u32> {
        let found = self.by_id(self.find(kind::ENUM, enumeration)?)?;
        (0..found.len as usize)
            .map(|index| found.rest + index * 8)
            .find(|at| self.name_at(*at) == Some(name.as_bytes()))
            .and_then(|at| self.word(at + 4))
    }

    /// Names of a function's parameters.
    pub(super) fn parameters(&self, function: &str) -> Option<Vec<String>> {
        let prototype = self.by_id(self.by_id(self.find(kind::FUNC, function)?)?.operand)?;
        (0..prototype.len as usize)
            .map(|index| self.name_at(prototype.rest + index * 8))
            .map(|name| Some(String::from_utf8_lossy(name?).into_owned()))
            .collect()
    }

    /// Where the word with the linkage stands, in bytes from the blob's beginning, of each function that is global
    /// (`BTF_FUNC_GLOBAL`) and takes a pointer.
    pub(super) fn global_functions_with_pointers(&self) -> Vec<usize> {
        const GLOBAL: u32 = 1;
        let takes_pointer = |function: Type| {
            let prototype = self.by_id(function.operand)?;
            let mut parameters = (0..prototype.len as usize).map(|index| prototype.rest + index * 8 + 4);
            Some(parameters.any(|at| {
                let parameter = self.word(at).and_then(|id| self.resolve(id));
                parameter.is_some_and(|it| it.kind == kind::PTR)
            }))
        };
        let found = |at: &u32| {
            let function = self.type_at(*at as usize)?;
            let is_wanted = function.kind == kind::FUNC && function.len == GLOBAL && takes_pointer(function)?;
            is_wanted.then_some(*at as usize + 4)
        };
        self.types[1..].iter().filter_map(found).collect()
    }

    /// True if the kernel has that tracepoint: each has a type definition for its callbacks.
    pub(super) fn has_tracepoint(&self, name: &str) -> bool {
        self.find(kind::TYPEDEF, &format!("btf_trace_{name}")).is_some()
    }

    /// Bit offset and type of a member, looked for in unnamed members too.
    fn member(&self, id: u32, name: &str) -> Option<(u32, u32)> {
        let structure = self.resolve(id)?;
        if structure.kind != kind::STRUCT && structure.kind != kind::UNION {
            return None;
        }
        for index in 0..structure.len as usize {
            let at = structure.rest + index * 12;
            let (member, mut offset) = (self.word(at + 4)?, self.word(at + 8)?);
            if structure.flag {
                offset &= 0xff_ffff; // The upper eight bits are a bit field's width.
            }
            let member_name = self.name_at(at)?;
            if member_name == name.as_bytes() {
                return Some((offset, member));
            }
            if member_name.is_empty()
                && let Some((inner, found)) = self.member(member, name)
            {
                return Some((offset + inner, found));
            }
        }
        None
    }

    /// The type behind type definitions and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<Type> {
        loop {
            let found = self.by_id(id)?;
            match found.kind {
                kind::TYPEDEF | kind::VOLATILE..=kind::RESTRICT | kind::TYPE_TAG => id = found.operand,
                _ => return Some(found),
            }
        }
    }

    fn find(&self, wanted: u32, name: &str) -> Option<u32> {
        (1..).zip(&self.types[1..]).find_map(|(id, at)| {
            let at = *at as usize;
            let kind = (self.word(at + 4)? >> 24) & 0x1f;
            (kind == wanted && self.name_at(at) == Some(name.as_bytes())).then_some(id)
        })
    }

    fn by_id(&self, id: u32) -> Option<Type> {
        match id {
            0 => None,
            _ => self.type_at(*self.types.get(id as usize)? as usize),
        }
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        let info = self.word(at + 4)?;
        Some(Type {
            kind: (info >> 24) & 0x1f,
            len: info & 0xffff,
            flag: info >> 31 == 1,
            operand: self.word(at + 8)?,
            rest: at + 12,
        })
    }

    /// The name whose offset in the string section stands at `at`.
    fn name_at(&self, at: usize) -> Option<&[u8]> {
        let text = self.data.get(self.strings + self.word(at)? as usize..)?;
        text.split(|byte| *byte == 0).next()
    }

    fn word(&self, at: usize) -> Option<u32> {
        u32_at(&self.data, at)
    }
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// Length in bytes of a type's variable part.
fn rest_len(found: &Type) -> Result<usize, BtfError> {
    let len = found.len as usize;
    Ok(match found.kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => len * 12,
        kind::ENUM | kind::FUNC_PROTO => len * 8,
        0 | 20.. => {
            return Err(BtfError::Malformed(
                "a kind of type that this version does not know",
            ));
        }
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_is_understood() {
        let btf = Btf::of_kernel().unwrap();
        assert_eq!(
            btf.offset("sock", "__sk_common.skc_family"),
            Some(16),
            "in a union of a structure of a structure"
        );
        assert_eq!(btf.offset("upid", "nr"), Some(0));
        assert_eq!(btf.size("upid"), Some(16));
        assert_eq!(btf.parameters("tcp_sendmsg").unwrap(), ["sk", "msg", "size"]);
        assert_eq!(
            btf.enumerator("iter_type", "ITER_IOVEC").is_some(),
            btf.enumerator("iter_type", "ITER_KVEC").is_some()
        );
        assert!(btf.has_tracepoint("tcp_destroy_sock"));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let btf = Btf::of_kernel().unwrap();
        assert_eq!(btf.offset("sock", "no_such_field"), None);
        assert_eq!(btf.offset("no_such_structure", "nr"), None);
        assert_eq!(btf.offset("upid", "nr.inside_a_number"), None);
        assert_eq!(btf.parameters("no_such_function"), None);
        assert!(!btf.has_tracepoint("no_such_tracepoint"));
    }

    #[test]
    fn damaged_type_information_is_refused() {
        let whole = fs::read(VMLINUX).unwrap();
        for len in [0, 1, 3, 8, 23, 24, 100, whole.len() / 2, whole.len() - 1] {
            assert!(
                Btf::parse(whole[..len].to_vec()).is_err(),
                "{len} bytes of {}",
                whole.len()
            );
        }
        assert!(Btf::parse(vec![0xff; 4096]).is_err());
    }
}
