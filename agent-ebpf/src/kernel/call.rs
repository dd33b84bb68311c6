//! One socket call: where its bytes are, and taking the connection over them.

use agent_ebpf::{
    abi::{Loss, READERS, REQUESTS, Setting, entrances},
    http::{Connection, Direction, Event, FOUND, Source, WINDOW, Window, advance, advance_unseen},
};
use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_probe_read_user},
    macros::map,
    maps::{PerCpuArray, ProgramArray},
};

use core::arch::asm;

use super::{
    connections::{self, Socket},
    handled,
    memory::{Access, Helper, kernel, user},
    process::{count, lose},
    settings::setting,
};

/// Segments before the last one of a call that one run walks over to find its first byte. Of all runs together more
/// than `UIO_MAXIOV`, all there can be.
const SEGMENTS_BACK: u32 = 128;

/// Working memory: more than the eBPF stack holds.
#[repr(C)]
struct Work {
    window: Window,
    bytes: Bytes,
    /// The socket of a call that takes more work than one run of the program may do; 0 if there is none.
    unfinished: u64,
    /// The thread that came in by this memory's entrance, where there are entrances; 0 while there is none.
    thread: u64,
}

/// By CPU and program; by CPU, entrance and program where programs have entrances. Nothing interrupts an entrance for
/// another task to come in by it.
#[map]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(Program::COUNT, 0);

/// The programs that read what went over sockets, to be called by themselves and by their entrances. One map for each,
/// because the kernel lets trampolines' programs call only programs of the same function.
#[map]
static TCP_SEND: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static TCP_RECEIVE: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static UNIX_SEND: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static UNIX_RECEIVE: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The programs, as indices of [`WORK`].
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Program {
    TcpSend,
    TcpReceive,
    UnixSend,
    UnixReceive,
}

impl Program {
    pub const COUNT: u32 = READERS;

    /// Calls this program from an entrance. Comes back only if that cannot be done.
    #[inline(always)]
    pub fn enter(self, ctx: &impl EbpfContext, entrance: u32) {
        if let Some(work) = WORK.get_ptr_mut(entrance * READERS + self as u32) {
            // SAFETY: this CPU's and this entrance's own.
            let work = unsafe { &mut *work };
            work.unfinished = 0;
            work.thread = bpf_get_current_pid_tgid();
            self.call(ctx);
            work.thread = 0;
        }
    }

    /// Calls this program. Comes back only if that cannot be done.
    #[inline(always)]
    fn call(self, ctx: &impl EbpfContext) {
        let programs = match self {
            Self::TcpSend => &TCP_SEND,
            Self::TcpReceive => &TCP_RECEIVE,
            Self::UnixSend => &UNIX_SEND,
            Self::UnixReceive => &UNIX_RECEIVE,
        };
        // SAFETY: the programs in the array are of this one's type.
        let _refused = unsafe { programs.tail_call(ctx, 0) };
    }
}

/// The bytes of a call in the calling task's memory.
#[repr(C)]
struct Bytes {
    /// Bytes of the call not copied or skipped yet.
    left: u64,
    /// Where the current segment goes on.
    address: u64,
    /// Bytes left of the current segment.
    segment: u64,
    /// The `struct iovec` of the next one; while [`Self::back`] is not 0, of one before which the call's first byte is.
    next: u64,
    /// How many bytes before `segment` bytes into that one; 0 once the first byte is found.
    back: u64,
    /// 1 if that is in user memory.
    next_in_user: u32,
    /// Codes found in this run. They are counted at its end: the verifier walks through
    /// what happens to a message once for each that there may be, not once for each step.
    found: u32,
    codes: [u16; FOUND],
}

/// Where a call's bytes are.
#[derive(Clone, Copy)]
pub enum Data {
    /// In the buffers of a kernel `struct msghdr` whose iterator has moved past them.
    Message(u64),
    /// In a buffer at that address.
    Buffer(u64),
    /// In the buffers of an array of `struct iovec` at that address in user memory.
    Vector(u64),
    /// Somewhere they cannot be read.
    Unreadable(Loss),
}

/// A call has moved `transferred` bytes over `sock`; it and a message that `data` tells of are read by `A`.
#[inline(always)]
pub fn transferred<A: Access>(
    ctx: &impl EbpfContext,
    program: Program,
    socket: Socket,
    direction: Direction,
    sock: u64,
    transferred: u32,
    data: impl FnOnce(&Connection) -> Data,
) {
    run(ctx, program, direction, sock, |bytes| {
        let connection = begin::<A>(program, socket, direction, sock, transferred)?;
        let data = data(connection);
        locate::<A>(bytes, direction, connection, data, transferred)
    });
}

/// A call has moved `transferred` bytes over `sock`, which are where no program can read them.
#[inline(always)]
pub fn transferred_unseen(
    program: Program,
    socket: Socket,
    direction: Direction,
    sock: u64,
    transferred: u32,
    cause: Loss,
) {
    if let Some(connection) = begin::<Helper>(program, socket, direction, sock, transferred) {
        found(advance_unseen(
            connection,
            direction,
            u64::from(transferred),
            cause,
        ));
    }
}

/// A call has moved so many messages over `sock`, nobody knows of how many bytes; on TCP the sequence number tells.
#[inline(always)]
pub fn messages_unseen(direction: Direction, sock: u64, messages: u32) -> Option<()> {
    let connection = connections::find(sock, Socket::Any, direction, 0)?;
    if connection.is_ignored(direction) {
        return None;
    }
    match connections::position::<Helper>(sock, connection, direction) {
        Some(position) => {
            let count = connection.move_position(direction, position, 0);
            unseen(direction, sock, connection, count);
        }
        None => found(advance_unseen(
            connection,
            direction,
            u64::from(messages),
            Loss::UnreadablePages,
        )),
    }
    Some(())
}

/// The connection to take over a call's bytes, unless there is nothing to be found in them or, on TCP, they have been
/// handled.
#[inline(always)]
fn begin<A: Access>(
    program: Program,
    socket: Socket,
    direction: Direction,
    sock: u64,
    transferred: u32,
) -> Option<&'static mut Connection> {
    let connection = connections::find(sock, socket, direction, transferred)?;
    handled::see::<A>(program, direction, sock, connection);
    if connection.is_ignored(direction) {
        return None;
    }
    if let Some(position) = connections::position::<A>(sock, connection, direction) {
        // Less than the call moved: it was handled, by way of another entrance.
        if connection.ahead(direction, position) < transferred {
            return None;
        }
        let gap = connection.move_position(direction, position, transferred);
        unseen(direction, sock, connection, gap);
    }
    Some(connection)
}

/// The socket of a call that the program has to go on with in this run; 0 if there is none. To be asked before anything
/// that may turn out otherwise than in the run before.
#[inline(always)]
pub fn unfinished(program: Program) -> u64 {
    // SAFETY: this CPU's and this program's own; see `Work`.
    WORK.get_ptr_mut(program as u32)
        .map_or(0, |work| unsafe { (*work).unfinished })
}

/// The program cannot find its call. If it has one to go on with, the next one must not be taken for it.
#[inline(always)]
pub fn abandon(program: Program, direction: Direction) {
    if let Some(work) = WORK.get_ptr_mut(program as u32) {
        // SAFETY: this CPU's and this program's own; see `Work`.
        let work = unsafe { &mut *work };
        if work.unfinished != 0 {
            work.give_up(direction);
        }
    }
}

/// A call on a TCP socket has moved bytes, as many as its sequence number is ahead of where it was last seen. Of these
/// the last `transferred` are where `data` says.
///
/// By direction, so that each program has its own, inlined: if two called one, `data` would go there by way of the stack,
/// where the verifier of Linux 5.10 prunes what it may not, and takes out the wrong half of the code.
#[inline(always)]
pub fn moved<const RECEIVES: bool>(
    ctx: &impl EbpfContext,
    program: Program,
    sock: u64,
    transferred: u32,
    data: Data,
) {
    let direction = if RECEIVES {
        Direction::Received
    } else {
        Direction::Sent
    };
    run(ctx, program, direction, sock, |bytes| {
        let (connection, transferred) = catch_up(direction, sock, transferred)?;
        if transferred == 0 {
            return None;
        }
        locate::<Helper>(bytes, direction, connection, data, transferred)
    });
}

/// Takes a TCP connection over what no hook has seen, but for the last `transferred` bytes. Returns how many of these
/// there are to be looked at.
#[inline(always)]
pub fn catch_up(direction: Direction, sock: u64, transferred: u32) -> Option<(&'static mut Connection, u32)> {
    let connection = connections::seen(sock)?;
    if connection.is_ignored(direction) {
        return None;
    }
    let position = connections::position::<Helper>(sock, connection, direction)?;
    let ahead = connection.move_position(direction, position, 0);
    // More than went cannot have been moved: then what is said to be there is of another call.
    let transferred = if transferred <= ahead { transferred } else { 0 };
    unseen(direction, sock, connection, ahead.wrapping_sub(transferred));
    Some((connection, transferred))
}

/// `count` bytes of a TCP stream have gone by that no hook saw, or the end of the stream, which counts as one.
#[inline(always)]
fn unseen(direction: Direction, sock: u64, connection: &mut Connection, count: u32) {
    if count == 0 || (count == 1 && connections::is_shut_down(sock, direction)) {
        return;
    }
    found(advance_unseen(
        connection,
        direction,
        u64::from(count),
        Loss::UnreadablePages,
    ));
}

/// Finds the first byte of a call.
#[inline(always)]
fn locate<'a, A: Access>(
    bytes: &mut Bytes,
    direction: Direction,
    connection: &'a mut Connection,
    data: Data,
    transferred: u32,
) -> Option<&'a mut Connection> {
    match bytes.locate::<A>(data, u64::from(transferred)) {
        Ok(()) => Some(connection),
        Err(cause) => {
            found(advance_unseen(
                connection,
                direction,
                u64::from(transferred),
                cause,
            ));
            None
        }
    }
}

/// One run of a program: begins with a call, or goes on with one that takes more work than one run may do; and if
/// there is work left, has the kernel run the program again (`bpf_tail_call`).
#[inline(always)]
fn run(
    ctx: &impl EbpfContext,
    program: Program,
    direction: Direction,
    sock: u64,
    begin: impl FnOnce(&mut Bytes) -> Option<&'static mut Connection>,
) {
    let Some(work) = working_memory(program) else {
        return;
    };
    work.go_on(direction, sock, begin);
    if work.unfinished != 0 {
        program.call(ctx);
        // Only reached if the kernel refuses to go on, as it does after 33 times.
        work.give_up(direction);
    }
    work.release();
}

/// Working memory for a call. Nothing interrupts a program that has no entrances; else the entrance has chosen.
#[inline(always)]
fn working_memory(program: Program) -> Option<&'static mut Work> {
    if setting(Setting::Entrances) != entrances::NONE {
        return chosen(program as u32);
    }
    // SAFETY: this CPU's and this program's own.
    WORK.get_ptr_mut(program as u32).map(|work| unsafe { &mut *work })
}

/// Calculated, not looked for: the verifier would walk through all that follows once for each that it may be.
#[inline(always)]
fn chosen(program: u32) -> Option<&'static mut Work> {
    let thread = bpf_get_current_pid_tgid();
    let mut index = program;
    for entrance in 1..entrances::COUNT {
        let work = WORK.get_ptr_mut(entrance * READERS + program)?;
        // SAFETY: a field of a map value; only this thread's entrance sets it to this thread.
        let other = unsafe { (*work).thread } ^ thread;
        let mut is_other = other | other.wrapping_neg();
        // In assembly, because the compiler would make a jump of it.
        // SAFETY: the highest bit of the register, and nothing else.
        unsafe { asm!("{is_other} >>= 63", is_other = inout(reg) is_other) };
        index += entrance * READERS * (1 - is_other as u32);
    }
    // SAFETY: this CPU's and this call's own.
    WORK.get_ptr_mut(index).map(|work| unsafe { &mut *work })
}

impl Work {
    /// The call is over.
    #[inline(always)]
    fn release(&mut self) {
        if setting(Setting::Entrances) != entrances::NONE {
            self.thread = 0;
        }
    }

    #[inline(always)]
    fn go_on(
        &mut self,
        direction: Direction,
        sock: u64,
        begin: impl FnOnce(&mut Bytes) -> Option<&'static mut Connection>,
    ) {
        let unfinished = self.unfinished;
        let connection = if unfinished == 0 {
            begin(&mut self.bytes)
        } else {
            self.unfinished = 0;
            let connection = connections::seen(unfinished);
            if connection.is_none() {
                lose(Loss::ConnectionEvicted as u32);
            }
            connection
        };
        let Some(connection) = connection else { return };
        if unfinished == 0 {
            connection.begin_call(direction);
            self.window.clear();
        }
        self.bytes.found = 0;
        match self.bytes.rewind() {
            Some(true) => {}
            Some(false) => {
                self.unfinished = sock;
                return;
            }
            None => {
                let (count, cause) = (self.bytes.left, Loss::UnreadableMemory);
                return found(advance_unseen(connection, direction, count, cause));
            }
        }
        if !advance(connection, direction, &mut self.window, &mut self.bytes) {
            self.unfinished = sock;
        }
        for index in 0..FOUND {
            if index as u32 >= self.bytes.found {
                break;
            }
            count(self.bytes.codes[index]);
        }
    }

    #[inline(always)]
    fn give_up(&mut self, direction: Direction) {
        let left = self.bytes.left + u64::from(self.window.left());
        if let Some(connection) = connections::seen(self.unfinished) {
            found(advance_unseen(connection, direction, left, Loss::GaveUp));
        }
        self.unfinished = 0;
    }
}

#[inline(always)]
fn found(event: Event) {
    if let Some(code) = event.code() {
        count(code);
    }
    if let Some(cause) = event.loss_index() {
        lose(cause);
    }
}

impl Bytes {
    /// Goes to the first byte of a call that moved `transferred` bytes.
    #[inline(always)]
    fn locate<A: Access>(&mut self, data: Data, transferred: u64) -> Result<(), Loss> {
        self.left = transferred;
        self.back = 0;
        match data {
            Data::Buffer(address) => {
                self.address = address;
                self.segment = transferred;
                Ok(())
            }
            Data::Vector(vector) => {
                self.segment = 0;
                self.next = vector;
                self.next_in_user = 1;
                Ok(())
            }
            Data::Message(message) => self
                .locate_message::<A>(message, transferred)
                .unwrap_or(Err(Loss::UnreadableMemory)),
            Data::Unreadable(cause) => Err(cause),
        }
    }

    /// Notes where a message's `struct iov_iter` stands after the call, or where its only buffer begins.
    #[inline(always)]
    fn locate_message<A: Access>(&mut self, message: u64, transferred: u64) -> Option<Result<(), Loss>> {
        let iterator = message + u64::from(setting(Setting::MsgIter));
        let kind = u32::from(A::field::<u8>(iterator, Setting::IterType)?) & setting(Setting::IterTypeMask);
        let iovec: u64 = A::field(iterator, Setting::IterIov)?;
        // What comes out of a map is only a number, with which the verifier allows arithmetic.
        // SAFETY: references are valid and aligned.
        let iovec = unsafe {
            (&raw mut self.next).write_volatile(iovec);
            (&raw const self.next).read_volatile()
        };
        let offset: u64 = A::field(iterator, Setting::IterOffset)?;
        if kind == setting(Setting::IterTypeUbuf) {
            self.address = iovec.wrapping_add(offset).wrapping_sub(transferred);
            self.segment = transferred;
            return Some(Ok(()));
        }
        if kind != setting(Setting::IterTypeIovec) {
            return Some(Err(Loss::UnreadablePages));
        }
        self.segment = offset;
        self.back = transferred;
        self.next_in_user = 0;
        Some(Ok(()))
    }

    /// Goes back to the call's first byte; the array of segments is still there. True if that is found, false if there
    /// is more way to go than in one run.
    #[inline(always)]
    fn rewind(&mut self) -> Option<bool> {
        let (mut iovec, mut offset, mut back) = (self.next, self.segment, self.back);
        if back == 0 {
            return Some(true);
        }
        for _ in 0..SEGMENTS_BACK {
            if offset >= back {
                let [base, len] = kernel::<[u64; 2]>(iovec)?;
                offset -= back;
                self.address = base.wrapping_add(offset);
                self.segment = len.wrapping_sub(offset);
                self.next = iovec + 16;
                self.back = 0;
                return Some(true);
            }
            back -= offset;
            iovec -= 16;
            offset = kernel(iovec + 8)?;
        }
        (self.next, self.segment, self.back) = (iovec, offset, back);
        Some(false)
    }

    #[inline(always)]
    fn take(&mut self, count: u64) {
        self.address = self.address.wrapping_add(count);
        self.segment = self.segment.wrapping_sub(count);
        self.left = self.left.wrapping_sub(count);
    }
}

impl Bytes {
    #[inline(always)]
    fn push(&mut self, code: u16) {
        let index = self.found as usize;
        if index < FOUND {
            self.codes[index] = code;
            self.found += 1;
        }
    }
}

impl Source for Bytes {
    #[inline(always)]
    fn left(&self) -> u64 {
        self.left
    }

    #[inline(always)]
    fn seek(&mut self) -> Result<(), Loss> {
        if self.segment == 0 {
            let segment: Option<[u64; 2]> = if self.next_in_user == 1 {
                user(self.next)
            } else {
                kernel(self.next)
            };
            let [base, len] = segment.ok_or(Loss::UnreadableMemory)?;
            self.address = base;
            self.segment = len;
            self.next += 16;
        }
        if self.segment > self.left {
            self.segment = self.left;
        }
        Ok(())
    }

    #[inline(always)]
    fn skip(&mut self, count: u64) -> u64 {
        let count = if count < self.segment { count } else { self.segment };
        self.take(count);
        count
    }

    #[inline(always)]
    fn fill(&mut self, window: &mut Window) -> Result<(), Loss> {
        let count = if self.segment < WINDOW as u64 {
            self.segment
        } else {
            WINDOW as u64
        };
        // SAFETY: the window holds `WINDOW` bytes; the helper checks the address.
        let result = unsafe {
            bpf_probe_read_user(
                window.destination().cast(),
                count as u32,
                self.address as *const _,
            )
        };
        if result < 0 {
            return Err(Loss::UnreadableMemory);
        }
        window.filled(count as u32);
        self.take(count);
        Ok(())
    }

    #[inline(always)]
    fn found(&mut self, event: Event) {
        if let Some(code) = event.code() {
            self.push(code);
        }
        if event.is_answered() {
            self.push(REQUESTS);
        }
        if let Some(cause) = event.loss_index() {
            lose(cause);
        }
    }
}
