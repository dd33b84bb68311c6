//! The harness: socket calls in, counts out.

use std::fmt;

use crate::{
    abi::{Loss, REQUESTS},
    http::{
        Connection, Direction, Event, FOUND, STEPS, Source, WINDOW, Window, advance, advance_discarded,
        advance_unseen,
    },
};

/// What one socket call moved, as the process under test sees it.
#[derive(Clone, Copy)]
pub(super) enum Call<'a> {
    Receives(&'a [u8]),
    Sends(&'a [u8]),
    /// Received in pieces, some of which cannot be read.
    ReceivesPieces(&'a [Piece<'a>]),
    /// Sent in pieces, some of which cannot be read.
    SendsPieces(&'a [Piece<'a>]),
    /// Received, but never in user memory.
    ReceivesPages(u64),
    /// Received and thrown away by the kernel: `MSG_TRUNC`.
    ReceivesAndDiscards(u64),
    /// Sent, but never in user memory: `sendfile`, `splice`.
    SendsPages(u64),
}

/// A segment of a call's bytes, as in an `iovec`.
#[derive(Clone, Copy)]
pub(super) enum Piece<'a> {
    Bytes(&'a [u8]),
    /// That many bytes whose memory is not resident.
    Unreadable(u64),
    /// That many bytes of which not even the address can be told.
    Unreachable(u64),
}

/// What was counted, in order.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) requests: usize,
    pub(super) responses: Vec<u16>,
    pub(super) losses: Vec<Loss>,
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            requests,
            responses,
            losses,
        } = self;
        write!(
            f,
            "{requests} requests, responses {responses:?}, losses {losses:?}"
        )
    }
}

/// Counts without losses.
pub(super) fn counted(requests: usize, responses: &[u16]) -> Counted {
    Counted {
        requests,
        responses: responses.to_vec(),
        losses: Vec::new(),
    }
}

impl Counted {
    pub(super) fn lost(mut self, losses: &[Loss]) -> Self {
        self.losses = losses.to_vec();
        self
    }

    fn found(&mut self, event: Event) {
        assert!(!event.is_none(), "an empty event was reported");
        match event.code() {
            None => {}
            Some(REQUESTS) => self.requests += 1,
            Some(code) => self.responses.push(code),
        }
        self.requests += usize::from(event.is_answered());
        if let Some(index) = event.loss_index() {
            self.losses.push(Loss::ALL[index as usize]);
        }
    }
}

/// One process's side of one connection.
pub(super) struct Conversation {
    connection: Connection,
    window: Window,
    pub(super) counted: Counted,
}

impl Conversation {
    /// Watched from its first byte on.
    pub(super) fn opened() -> Self {
        let mut connection = Connection::new(0, true);
        connection.set_positions(0, 0);
        Self::new(connection)
    }

    /// The same on a socket without sequence numbers.
    pub(super) fn opened_on_unix() -> Self {
        let mut connection = Connection::new(0, true);
        connection.set_accepted();
        Self::new(connection)
    }

    /// On a socket without sequence numbers that nobody accepted.
    pub(super) fn of_a_pair() -> Self {
        Self::new(Connection::new(0, true))
    }

    /// Open already when watching began.
    pub(super) fn joined() -> Self {
        Self::new(Connection::new(0, false))
    }

    /// The same, and its state had been there and made room; the process sends next.
    pub(super) fn evicted() -> Self {
        let mut connection = Connection::new(0, false);
        connection.begin_answering();
        Self::new(connection)
    }

    fn new(connection: Connection) -> Self {
        let mut window = Window::new();
        // What another connection left behind must not matter; a line feed would do the most harm.
        write(&mut window, &[b'\n'; WINDOW]);
        Self {
            connection,
            window,
            counted: Counted::default(),
        }
    }

    pub(super) fn call(&mut self, call: Call<'_>) {
        self.call_in_segments(call, usize::MAX);
    }

    pub(super) fn calls(&mut self, calls: &[Call<'_>]) {
        for call in calls {
            self.call(*call);
        }
    }

    /// Makes a call with its readable bytes in segments of at most `segment` bytes.
    pub(super) fn call_in_segments(&mut self, call: Call<'_>, segment: usize) {
        match call {
            Call::Receives(bytes) => self.bytes(Direction::Received, bytes, segment),
            Call::Sends(bytes) => self.bytes(Direction::Sent, bytes, segment),
            Call::ReceivesPieces(pieces) => self.pieces(Direction::Received, pieces.to_vec()),
            Call::SendsPieces(pieces) => self.pieces(Direction::Sent, pieces.to_vec()),
            Call::ReceivesPages(count) => self.pages(Direction::Received, count),
            Call::ReceivesAndDiscards(count) => advance_discarded(&mut self.connection, count),
            Call::SendsPages(count) => self.pages(Direction::Sent, count),
        }
    }

    fn bytes(&mut self, direction: Direction, bytes: &[u8], segment: usize) {
        self.pieces(direction, bytes.chunks(segment).map(Piece::Bytes).collect());
    }

    pub(super) fn pieces(&mut self, direction: Direction, pieces: Vec<Piece<'_>>) {
        let ignored = self.connection.is_ignored(direction);
        let before = self.counted.clone();
        let mut bytes = Bytes {
            pieces,
            next: 0,
            offset: 0,
            found: 0,
            counted: &mut self.counted,
        };
        self.connection.begin_call(direction);
        self.window.clear();
        let is_done = (0..RUNS).any(|_| {
            bytes.found = 0;
            let is_done = advance(&mut self.connection, direction, &mut self.window, &mut bytes);
            assert!(bytes.found <= FOUND, "{} codes in one run", bytes.found);
            is_done
        });
        if !is_done {
            let left = bytes.left() + u64::from(self.window.left());
            let event = advance_unseen(&mut self.connection, direction, left, Loss::GaveUp);
            bytes.found(event);
        }
        if ignored {
            assert_eq!(
                self.counted, before,
                "counted on a connection that says it can be ignored"
            );
        }
    }

    fn pages(&mut self, direction: Direction, count: u64) {
        let event = advance_unseen(&mut self.connection, direction, count, Loss::UnreadablePages);
        if !event.is_none() {
            self.counted.found(event);
        }
    }

    pub(super) fn is_ignored(&self) -> bool {
        self.connection.is_ignored(Direction::Received) && self.connection.is_ignored(Direction::Sent)
    }
}

struct Bytes<'a> {
    pieces: Vec<Piece<'a>>,
    next: usize,
    /// Bytes of the next piece that are gone.
    offset: u64,
    /// Codes reported in one run.
    found: usize,
    counted: &'a mut Counted,
}

impl Bytes<'_> {
    /// Bytes left of the next piece.
    fn at_hand(&self) -> u64 {
        self.pieces.get(self.next).map_or(0, Piece::len) - self.offset
    }

    fn take(&mut self, count: u64) {
        self.offset += count;
        if self.at_hand() == 0 {
            self.next += 1;
            self.offset = 0;
        }
    }
}

impl Piece<'_> {
    fn len(&self) -> u64 {
        match self {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Unreadable(count) | Piece::Unreachable(count) => *count,
        }
    }
}

impl Source for Bytes<'_> {
    fn left(&self) -> u64 {
        self.pieces.iter().skip(self.next).map(Piece::len).sum::<u64>() - self.offset
    }

    fn seek(&mut self) -> Result<(), Loss> {
        match self.pieces[self.next] {
            Piece::Unreachable(_) => Err(Loss::UnreadableMemory),
            Piece::Bytes(_) | Piece::Unreadable(_) => Ok(()),
        }
    }

    fn skip(&mut self, count: u64) -> u64 {
        let skipped = count.min(self.at_hand());
        self.take(skipped);
        skipped
    }

    fn fill(&mut self, window: &mut Window) -> Result<(), Loss> {
        match self.pieces[self.next] {
            Piece::Unreadable(_) | Piece::Unreachable(_) => Err(Loss::UnreadableMemory),
            Piece::Bytes(bytes) => {
                let rest = &bytes[usize::try_from(self.offset).unwrap()..];
                let copied = rest.len().min(WINDOW);
                write(window, &rest[..copied]);
                self.take(copied as u64);
                Ok(())
            }
        }
    }

    fn found(&mut self, event: Event) {
        self.found += usize::from(event.code().is_some()) + usize::from(event.is_answered());
        self.counted.found(event);
    }
}

fn write(window: &mut Window, bytes: &[u8]) {
    assert!(bytes.len() <= WINDOW);
    // SAFETY: the destination has room for `WINDOW` bytes, and nothing else refers to it.
    unsafe {
        window
            .destination()
            .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
    };
    window.filled(u32::try_from(bytes.len()).unwrap());
}

/// Runs of a program for one call: the first, and as many as the kernel allows of `bpf_tail_call` at least (Linux 5.10;
/// one of them the `sys_exit` program spends).
const RUNS: usize = 32;

/// Pieces of work that are done for one call.
pub(super) const WORK: usize = STEPS as usize * RUNS;

/// Sizes that calls and segments are cut to: where words, line ends and windows are split.
const CUTS: [usize; 13] = [1, 2, 3, 4, 5, 7, 8, 10, 12, 13, 64, WINDOW - 1, WINDOW + 1];

/// Cut smaller than this, a call would be more work than is done for one call.
const MAX_SEGMENTS: usize = WORK / 4;

/// Checks what is counted when the calls are as given, in segments of any size.
#[track_caller]
pub(super) fn assert_counted(name: &str, calls: &[Call<'_>], expected: &Counted) {
    assert_counted_in(Conversation::opened, name, calls, expected);
}

/// The same on a connection that was open before.
#[track_caller]
pub(super) fn assert_counted_joined(name: &str, calls: &[Call<'_>], expected: &Counted) {
    assert_counted_in(Conversation::joined, name, calls, expected);
}

#[track_caller]
fn assert_counted_in(start: fn() -> Conversation, name: &str, calls: &[Call<'_>], expected: &Counted) {
    for segment in CUTS.into_iter().chain([usize::MAX]) {
        let mut conversation = start();
        for &call in calls {
            let len = if let Call::Receives(bytes) | Call::Sends(bytes) = call {
                bytes.len()
            } else {
                0
            };
            conversation.call_in_segments(call, segment.max(len / MAX_SEGMENTS));
        }
        assert_eq!(&conversation.counted, expected, "{name}, segments of {segment}");
    }
}

/// Checks what is counted when the calls are as given, in segments of any size, and when they are cut into calls
/// of any size. For conversations whose framing is never lost.
#[track_caller]
pub(super) fn assert_counted_however_cut(name: &str, calls: &[Call<'_>], expected: &Counted) {
    assert_counted(name, calls, expected);
    for cut in CUTS {
        let mut conversation = Conversation::opened();
        for call in calls {
            match call {
                Call::Receives(bytes) => bytes
                    .chunks(cut)
                    .for_each(|it| conversation.call(Call::Receives(it))),
                Call::Sends(bytes) => bytes
                    .chunks(cut)
                    .for_each(|it| conversation.call(Call::Sends(it))),
                other => conversation.call(*other),
            }
        }
        assert_eq!(&conversation.counted, expected, "{name}, calls of {cut}");
    }
}
