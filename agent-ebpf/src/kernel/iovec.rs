//! Where the bytes of a call are: from what a hook knows of it to its first byte.

use agent_ebpf::abi::{Loss, Setting};

use super::{
    layout::setting,
    memory::{Access, kernel},
    reader::Bytes,
};

/// Segments before the last one of a call that one run walks over to find its first byte. Of all runs together more
/// than `UIO_MAXIOV`, all there can be.
const SEGMENTS_BACK: u32 = 128;

/// Where a call's bytes are.
#[derive(Clone, Copy)]
pub enum Data {
    /// In the buffers of a kernel `struct msghdr` whose iterator has moved past them.
    Message(u64),
    /// In a buffer at that address.
    Buffer(u64),
    /// In the buffers of an array of `struct iovec` at that address in user memory.
    Vector(u64),
    /// Nowhere: the process threw them away (`MSG_TRUNC`).
    Discarded,
    /// Somewhere they cannot be read.
    Unreadable(Loss),
}

impl Bytes {
    /// Goes to the first byte of a call that moved `transferred` bytes.
    #[inline(always)]
    pub(super) fn locate<A: Access>(&mut self, data: Data, transferred: u64) -> Result<(), Loss> {
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
            Data::Discarded => Err(Loss::UnreadablePages),
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
    pub(super) fn rewind(&mut self) -> Option<bool> {
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
}
