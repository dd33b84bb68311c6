//! Which hook an agent takes.

use crate::bpf::{self, Hook, Refusal};
use crate::config::Settings;

/// Attaches as an agent with these settings would, and detaches again. Returns the hook's name, or `none`, as the first
/// line, and then one for each better hook that was not taken, or for what is in the way. The operator reads the first.
pub(super) fn answer(settings: &Settings) -> String {
    match bpf::attach(settings.fixed.hook, settings.fixed.map_sizes()) {
        Ok((_, attachments)) => taken(attachments.hook(), attachments.rejected()),
        Err(error) => format!("none\n{error}\n"),
    }
}

fn taken(hook: Hook, rejected: &[Refusal]) -> String {
    let rejected = rejected.iter().map(|refusal| format!("not {refusal}\n"));
    std::iter::once(format!("{hook}\n")).chain(rejected).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::AttachError;

    #[test]
    fn the_first_line_is_the_hook_and_nothing_else() {
        let refused = |hook, map| Refusal::new(hook, AttachError::NoMap(map));
        let rejected = [refused(Hook::Fentry, "A"), refused(Hook::Kprobe, "B")];
        assert_eq!(taken(Hook::Fentry, &[]), "fentry\n");
        assert_eq!(
            taken(Hook::Tracepoint, &rejected),
            "tracepoint\nnot fentry: the eBPF object has no map A\nnot kprobe: the eBPF object has no map B\n"
        );
    }
}
