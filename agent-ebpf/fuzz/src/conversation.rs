//! The engine's side: calls in, what it counted out.

use agent_ebpf::{
    abi::{Loss, REQUESTS},
    http::{Connection, Direction, Event, STEPS, Source, WINDOW, Window, advance},
};

/// Requests whose methods are remembered, until their responses.
pub const REMEMBERED: usize = 32;

/// How often a call may go on: enough for two steps a byte of the largest input. In the kernel a call is given up much
/// earlier, which the table's and the engine's own tests look at; here every byte is to be framed.
const RUNS: u32 = 2 * 4096 / STEPS + 1;

/// What was counted, in order. A request is nothing but there.
#[derive(Debug, Default)]
pub struct Counted {
    pub requests: Vec<()>,
    pub responses: Vec<u16>,
}

pub struct Conversation {
    connection: Connection,
    window: Window,
    pub counted: Counted,
}

impl Conversation {
    pub fn new(is_new: bool) -> Self {
        let mut connection = Connection::new(0, is_new);
        connection.set_positions(0, 0);
        Self {
            connection,
            window: Window::new(),
            counted: Counted::default(),
        }
    }

    /// The bytes in one call, or with dice in several, of several pieces each.
    pub fn turn(&mut self, direction: Direction, mut bytes: &[u8], dice: &mut Option<u32>) {
        while !bytes.is_empty() {
            let (call, rest) = bytes.split_at(roll(dice, bytes.len()));
            self.call(direction, call, dice);
            bytes = rest;
        }
    }

    fn call(&mut self, direction: Direction, bytes: &[u8], dice: &mut Option<u32>) {
        let mut pieces = Pieces {
            bytes,
            piece: 0,
            dice,
            counted: &mut self.counted,
        };
        self.connection.begin_call(direction);
        self.window.clear();
        let is_done =
            (0..RUNS).any(|_| advance(&mut self.connection, direction, &mut self.window, &mut pieces));
        assert!(is_done, "more than two steps a byte");
    }
}

/// How many of so many bytes come next: mostly few.
fn roll(dice: &mut Option<u32>, len: usize) -> usize {
    let Some(state) = dice else {
        return len;
    };
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    let limit = [1, 3, 9, 40, 300][(*state >> 24) as usize % 5];
    (1 + (*state >> 8) as usize % limit).min(len)
}

/// The bytes of a call, in pieces.
struct Pieces<'a> {
    bytes: &'a [u8],
    /// Bytes left of the current piece.
    piece: usize,
    dice: &'a mut Option<u32>,
    counted: &'a mut Counted,
}

impl Source for Pieces<'_> {
    fn left(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn seek(&mut self) -> Result<(), Loss> {
        if self.piece == 0 {
            // Not so many that there is more work than one call may be.
            self.piece = if self.bytes.len() > 1000 {
                1000
            } else {
                roll(self.dice, self.bytes.len())
            };
        }
        Ok(())
    }

    fn skip(&mut self, count: u64) -> u64 {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.piece);
        self.bytes = &self.bytes[count..];
        self.piece -= count;
        count as u64
    }

    fn fill(&mut self, window: &mut Window) -> Result<(), Loss> {
        let count = self.piece.min(WINDOW);
        // SAFETY: the window has room for `WINDOW` bytes, and nothing else refers to it.
        unsafe {
            window
                .destination()
                .copy_from_nonoverlapping(self.bytes.as_ptr(), count)
        };
        window.filled(u32::try_from(count).expect("a window is small"));
        self.bytes = &self.bytes[count..];
        self.piece -= count;
        Ok(())
    }

    fn found(&mut self, event: Event) {
        match event.code() {
            None => {}
            Some(REQUESTS) => self.counted.requests.push(()),
            Some(code) => self.counted.responses.push(code),
        }
        if event.is_answered() {
            self.counted.requests.push(());
        }
    }
}
