//! An input is a byte that decides how calls are cut, and what is received and sent in turns, with 0xff between them.
//! Nothing may panic or count more than the bytes can hold; and where the turns are one of each, the engine must find
//! what [`reference`] finds in the whole of each stream, however the calls are cut. Where calls cannot be read, or the process is
//! the client, what must hold whatever the bytes are does.

#![no_main]

mod conversation;
mod reference;

use agent_ebpf::{abi::Loss, http::Direction};
use conversation::{Conversation, Counted, Hidden, Opener};
use libfuzzer_sys::fuzz_target;
use reference::{Certainty, Found};

/// A response that needs no request.
const REQUEST_TIMEOUT: u16 = 408;

/// Between turns. Not in any message of a head.
const TURN: u8 = 0xff;

fn run(turns: &[&[u8]], dice: Option<u32>, is_new: bool) -> Counted {
    play(Conversation::new(is_new), turns, dice)
}

fn play(mut conversation: Conversation, turns: &[&[u8]], mut dice: Option<u32>) -> Counted {
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

/// Every response implies a request, unless none was asked; a connection is unreadable once at most, and is when nothing of it
/// could be read; a client counts nothing.
fn with_holes(turns: &[&[u8]], seed: u8) {
    const UNREADABLE: u32 = Loss::ConnectionUnreadable as u32;
    let dice = Some(u32::from(seed) + 1);
    let (is_tcp, is_new) = (seed & 1 == 0, seed & 2 == 0);
    for opener in [Opener::Peer, Opener::Process, Opener::Unknown] {
        for hidden in [Hidden::Nothing, Hidden::Some, Hidden::All] {
            let conversation = Conversation::opened(opener, is_tcp, is_new, hidden);
            let Counted {
                requests,
                responses,
                losses,
            } = play(conversation, turns, dice);
            let context = (opener, hidden, is_tcp, is_new);
            let are_finals = |code: &&u16| (**code >= 200 || **code == 101) && **code != REQUEST_TIMEOUT;
            let finals = responses.iter().filter(are_finals).count();
            assert!(
                requests.len() >= finals,
                "{context:?}: {} requests, {finals} finals",
                requests.len()
            );
            let unreadable = losses.iter().filter(|loss| **loss == UNREADABLE).count();
            let both = turns.iter().step_by(2).any(|turn| !turn.is_empty())
                && turns.iter().skip(1).step_by(2).any(|turn| !turn.is_empty());
            match (opener, hidden) {
                (Opener::Process, _) => {
                    assert!(
                        requests.is_empty() && responses.is_empty() && losses.is_empty(),
                        "{context:?}"
                    );
                }
                (_, Hidden::All) => {
                    assert!(requests.is_empty() && responses.is_empty(), "{context:?}");
                    let expected = usize::from(both && opener == Opener::Peer);
                    assert_eq!((losses.len(), unreadable), (expected, expected), "{context:?}");
                }
                (Opener::Peer, Hidden::Some) => assert!(unreadable <= 1, "{context:?}"),
                _ => assert_eq!(unreadable, 0, "{context:?}"),
            }
        }
    }
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
    with_holes(&turns, *seed);
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
