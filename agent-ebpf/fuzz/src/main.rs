//! An input is a byte that decides how calls are cut, and what is received and sent in turns, with 0xff between them.
//! Nothing may panic or count more than the bytes can hold; and where the turns are one of each, the engine must find
//! what [`reference`] finds in the whole of each stream, however the calls are cut.

#![no_main]

mod conversation;
mod reference;

use agent_ebpf::http::Direction;
use conversation::{Conversation, Counted};
use libfuzzer_sys::fuzz_target;
use reference::{Certainty, Found};

/// Between turns. Not in any message of a head.
const TURN: u8 = 0xff;

fn run(turns: &[&[u8]], mut dice: Option<u32>, is_new: bool) -> Counted {
    let mut conversation = Conversation::new(is_new);
    for (index, turn) in turns.iter().enumerate() {
        let direction = if index % 2 == 0 {
            Direction::Received
        } else {
            Direction::Sent
        };
        conversation.turn(direction, turn, &mut dice);
    }
    conversation.counted
}

/// What was found in one direction, against what is there.
fn compare<T: PartialEq + std::fmt::Debug>(what: &str, counted: &[T], found: &Found<T>) {
    let is_right = match found.certainty {
        Certainty::Whole => counted == found.messages,
        Certainty::UpToHere => counted.starts_with(&found.messages),
    };
    assert!(is_right, "{what}: counted {counted:?}, there are {found:?}");
}

fuzz_target!(|input: &[u8]| {
    let Some((seed, rest)) = input.split_first() else {
        return;
    };
    let turns: Vec<&[u8]> = rest.split(|byte| *byte == TURN).collect();
    let whole = run(&turns, None, true);
    let cut = run(&turns, Some(u32::from(*seed) + 1), true);
    let late = run(&turns, Some(u32::from(*seed) + 1), false);
    for counted in [&whole, &cut, &late] {
        assert!(counted.requests.len() + counted.responses.len() <= rest.len() / 10);
    }
    let [received, sent] = turns[..] else {
        return;
    };
    let requests = reference::requests(received);
    for counted in [&whole, &cut] {
        compare("requests", &counted.requests, &requests.lines());
    }
    // Where requests cannot be told, neither can the framing of their responses.
    if requests.certainty == Certainty::Whole && requests.messages.len() <= conversation::REMEMBERED {
        let responses = reference::responses(sent, &requests.messages);
        for counted in [&whole, &cut] {
            compare("responses", &counted.responses, &responses);
        }
    }
});
