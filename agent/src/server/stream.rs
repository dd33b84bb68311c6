//! A connection that does not wait for ever for its client to read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Fails with `TimedOut` when what was written is not taken within `patience`, however many of its bytes were.
///
/// An answer stays in memory until it is read, and there may be one of each tick.
#[derive(Debug)]
pub(super) struct WriteTimeout<S, F> {
    stream: S,
    /// Called when everything that was written is taken.
    taken: F,
    patience: Duration,
    /// Set from the first write on until everything is flushed.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S, F: Fn()> WriteTimeout<S, F> {
    pub(super) fn new(stream: S, patience: Duration, taken: F) -> Self {
        Self {
            stream,
            taken,
            patience,
            deadline: None,
        }
    }
}

impl<S: AsyncWrite + Unpin, F: Fn() + Unpin> WriteTimeout<S, F> {
    fn write_before_deadline(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let patience = self.patience;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + patience)));
        if deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        write(Pin::new(&mut self.stream), context)
    }
}

impl<S: AsyncRead + Unpin, F: Unpin> AsyncRead for WriteTimeout<S, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin, F: Fn() + Unpin> AsyncWrite for WriteTimeout<S, F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write_before_deadline(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write_before_deadline(context, |stream, context| {
            stream.poll_write_vectored(context, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when it has nothing more to write.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        if self.deadline.take().is_some() {
            (self.taken)();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::sleep;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_read_byte_by_byte_is_given_up() {
        let (ours, mut theirs) = duplex(10);
        let taken = Cell::new(0);
        let mut stream = WriteTimeout::new(ours, PATIENCE, || taken.set(taken.get() + 1));
        let reader = tokio::spawn(async move {
            while theirs.read_u8().await.is_ok() {
                sleep(Duration::from_millis(100)).await;
            }
        });
        let begin = Instant::now();
        let error = stream.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!((begin.elapsed(), taken.get()), (PATIENCE, 0));
        drop(stream);
        reader.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn each_answer_has_its_own_time() {
        let (ours, mut theirs) = duplex(10);
        let taken = Cell::new(0);
        let mut stream = WriteTimeout::new(ours, PATIENCE, || taken.set(taken.get() + 1));
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.map(|_| all.len())
        });
        for answer in 1..=5 {
            stream.write_all(&[0; 100]).await.unwrap();
            stream.flush().await.unwrap();
            assert_eq!(taken.get(), answer);
            sleep(PATIENCE * 2).await;
        }
        drop(stream);
        assert_eq!(reader.await.unwrap().unwrap(), 500);
    }
}
