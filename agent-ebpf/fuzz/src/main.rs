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

/// A response that needs no request.
const REQUEST_TIMEOUT: u16 = 408;

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
        // A response may be a request, too.
        assert!(counted.requests.len() + counted.responses.len() <= rest.len() / 6);
    }
    let [received, sent] = turns[..] else {
        return;
    };
    let requests = reference::requests(received);
    let is_any = usize::from(!requests.messages.is_empty());
    for counted in [&whole, &cut] {
        assert!(counted.requests.len() >= is_any);
    }
    // Where requests cannot be told, neither can the framing of their responses.
    if requests.certainty == Certainty::Whole && requests.messages.len() <= conversation::REMEMBERED {
        let responses = reference::responses(sent, &requests.messages);
        // The first one counts when it comes, each other one with its answer.
        let mut answers = 0;
        for code in &responses.messages {
            let is_final = *code >= 200 || *code == 101;
            let is_answer = answers < requests.messages.len() || *code != REQUEST_TIMEOUT;
            answers += usize::from(is_final && is_answer);
        }
        for counted in [&whole, &cut] {
            compare("responses", &counted.responses, &responses);
            let requests = counted.requests.len();
            let is_right = match responses.certainty {
                Certainty::Whole => requests == answers.max(is_any),
                Certainty::UpToHere => requests >= answers.max(is_any),
            };
            assert!(is_right, "{requests} requests, {answers} answers, {is_any}");
        }
    }
});
