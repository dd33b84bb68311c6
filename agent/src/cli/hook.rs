//! Which hook an agent takes.

use crate::bpf::{self, Hook};
use crate::config::Settings;

/// Attaches as an agent with these settings would, and detaches again. Returns the hook's name, or `none`, as the first
/// line, and then one for each better hook that was not taken, or for what is in the way. The operator reads the first.
pub(super) fn answer(settings: &Settings) -> String {
    match bpf::attach(settings.hook, settings.map_sizes) {
        Ok((_, attachments)) => taken(attachments.hook(), attachments.rejected()),
        Err(error) => format!("none\n{error}\n"),
    }
}

fn taken(hook: Hook, rejected: &[(Hook, String)]) -> String {
    let rejected = rejected
        .iter()
        .map(|(hook, reason)| format!("not {hook}: {reason}\n"));
    std::iter::once(format!("{hook}\n")).chain(rejected).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_hook_and_nothing_else() {
        let rejected = [
            (Hook::Fentry, "locked down".to_owned()),
            (Hook::Kprobe, "no kprobes".to_owned()),
        ];
        assert_eq!(taken(Hook::Fentry, &[]), "fentry\n");
        assert_eq!(
            taken(Hook::Tracepoint, &rejected),
            "tracepoint\nnot fentry: locked down\nnot kprobe: no kprobes\n"
        );
    }
}
