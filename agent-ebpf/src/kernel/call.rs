//! One socket call: where its bytes are, and taking the connection over them.

use agent_ebpf::{
    abi::{Loss, Setting},
    http::{Connection, Direction, Event, Source, WINDOW, Window, advance, advance_unseen},
};
use aya_ebpf::{helpers::generated::bpf_probe_read_user, macros::map, maps::PerCpuArray};

use super::{
    connections::{self, Socket},
    handled,
    memory::{field, kernel, user},
    preemption,
    process::{count, lose},
    settings::setting,
};

/// Segments before the last one of a call that are walked over to find its first byte. `UIO_MAXIOV` is 1024; more
/// than this few applications use.
const SEGMENTS_BACK: u32 = 64;

/// Working memory: more than the eBPF stack holds. One per program and CPU, because on preemptible kernels one
/// program may interrupt another on the same CPU, though never itself.
#[repr(C)]
struct Work {
    window: Window,
    bytes: Bytes,
}

#[map]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(Program::COUNT, 0);

/// Messages that one call may contain; those beyond are lost ([`Loss::GaveUp`]).
const FOUND: usize = 32;

/// The programs, as indices of [`WORK`].
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Program {
    TcpSend,
    TcpReceive,
    UnixSend,
    UnixReceive,
    TcpSendAgain,
    TcpReceiveAgain,
    UnixSendAgain,
    UnixReceiveAgain,
}

impl Program {
    const COUNT: u32 = 8;

    /// True for those that stand in for another (see [`super::fexit`]).
    #[inline(always)]
    pub fn is_stand_in(self) -> bool {
        self as u32 >= Self::TcpSendAgain as u32
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
    /// The `struct iovec` of the next one.
    next: u64,
    /// 1 if that is in user memory.
    next_in_user: u32,
    /// Messages found so far. They are counted after the call has been gone through: the verifier walks through
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

/// A call has moved `transferred` bytes over `sock`.
#[inline(always)]
pub fn transferred(
    program: Program,
    socket: Socket,
    direction: Direction,
    sock: u64,
    transferred: u32,
    data: impl FnOnce() -> Data,
) {
    preemption::disabled(|| handle(program, socket, direction, sock, transferred, data));
}

#[inline(always)]
fn handle(
    program: Program,
    socket: Socket,
    direction: Direction,
    sock: u64,
    transferred: u32,
    data: impl FnOnce() -> Data,
) {
    let Some(connection) = connections::find(sock, socket, direction, transferred) else {
        return;
    };
    if connection.is_ignored(direction) {
        return;
    }
    match connections::position(sock, connection, direction) {
        Some(position) => {
            // Less than the call moved: it was handled, by the program that this one stands in for.
            if connection.ahead(direction, position) < transferred {
                return;
            }
            let gap = connection.move_position(direction, position, transferred);
            unseen(direction, sock, connection, gap);
        }
        None => {
            if handled::is_handled(program) {
                return;
            }
        }
    }
    take(program, direction, connection, transferred, data());
}

/// A call on a TCP socket has moved bytes, as many as its sequence number is ahead of where it was last seen. Of these
/// the last `transferred` are where `data` says.
#[inline(always)]
pub fn moved(program: Program, direction: Direction, sock: u64, transferred: u32, data: Data) -> Option<()> {
    let connection = connections::seen(sock)?;
    if connection.is_ignored(direction) {
        return None;
    }
    let position = connections::position(sock, connection, direction)?;
    let ahead = connection.move_position(direction, position, 0);
    // More than went cannot have been moved: then what `data` says is of another call.
    let transferred = if transferred <= ahead { transferred } else { 0 };
    unseen(direction, sock, connection, ahead.wrapping_sub(transferred));
    if transferred > 0 {
        take(program, direction, connection, transferred, data);
    }
    Some(())
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

/// Takes the connection over the bytes of a call and counts what they contain.
#[inline(always)]
fn take(program: Program, direction: Direction, connection: &mut Connection, transferred: u32, data: Data) {
    let Some(work) = WORK.get_ptr_mut(program as u32) else {
        return;
    };
    // SAFETY: this CPU's and this program's own; see `Work`.
    let work = unsafe { &mut *work };
    if let Err(cause) = work.bytes.locate(data, u64::from(transferred)) {
        return found(advance_unseen(
            connection,
            direction,
            u64::from(transferred),
            cause,
        ));
    }
    work.bytes.found = 0;
    advance(connection, direction, &mut work.window, &mut work.bytes);
    for index in 0..FOUND {
        if index as u32 >= work.bytes.found {
            break;
        }
        count(work.bytes.codes[index]);
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
    fn locate(&mut self, data: Data, transferred: u64) -> Result<(), Loss> {
        self.left = transferred;
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
            Data::Message(message) => {
                let iterator = message + u64::from(setting(Setting::MsgIter));
                self.rewind(iterator, transferred)
                    .unwrap_or(Err(Loss::UnreadableMemory))
            }
            Data::Unreadable(cause) => Err(cause),
        }
    }

    /// Goes back from where a kernel `struct iov_iter` stands after the call to where it stood before. Its array of
    /// segments is still there.
    #[inline(always)]
    fn rewind(&mut self, iterator: u64, transferred: u64) -> Option<Result<(), Loss>> {
        let kind = u32::from(field::<u8>(iterator, Setting::IterType)?) & setting(Setting::IterTypeMask);
        let mut iovec: u64 = field(iterator, Setting::IterIov)?;
        let mut offset: u64 = field(iterator, Setting::IterOffset)?;
        if kind == setting(Setting::IterTypeUbuf) {
            self.address = iovec.wrapping_add(offset).wrapping_sub(transferred);
            self.segment = transferred;
            return Some(Ok(()));
        }
        if kind != setting(Setting::IterTypeIovec) {
            return Some(Err(Loss::UnreadablePages));
        }
        let mut back = transferred;
        for _ in 0..SEGMENTS_BACK {
            if offset >= back {
                let [base, len] = kernel::<[u64; 2]>(iovec)?;
                offset -= back;
                self.address = base.wrapping_add(offset);
                self.segment = len.wrapping_sub(offset);
                self.next = iovec + 16;
                self.next_in_user = 0;
                return Some(Ok(()));
            }
            back -= offset;
            iovec -= 16;
            offset = kernel(iovec + 8)?;
        }
        Some(Err(Loss::GaveUp))
    }

    #[inline(always)]
    fn take(&mut self, count: u64) {
        self.address = self.address.wrapping_add(count);
        self.segment = self.segment.wrapping_sub(count);
        self.left = self.left.wrapping_sub(count);
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
            let index = self.found as usize;
            if index < FOUND {
                self.codes[index] = code;
                self.found += 1;
            } else {
                lose(Loss::GaveUp as u32);
            }
        }
        if let Some(cause) = event.loss_index() {
            lose(cause);
        }
    }
}
