//! One direction of one connection.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::Link;

const CHUNK_BYTES: usize = 64 << 10;
/// On their way at a time; then the sender's own buffers fill, as with a real network.
const CHUNKS: usize = 64;

/// Carries bytes until one end closes. What was read before that still arrives.
pub(super) async fn pump(from: OwnedReadHalf, mut to: OwnedWriteHalf, mut link: watch::Receiver<Link>) {
    let (sender, mut queue) = mpsc::channel(CHUNKS);
    let writing = async {
        while let Some((arrived, chunk)) = queue.recv().await {
            pass(&mut link, arrived).await;
            let chunk: Bytes = chunk;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        // The end, too, is a message.
        pass(&mut link, Instant::now()).await;
        let _ = to.shutdown().await;
    };
    tokio::pin!(writing);
    tokio::select! {
        () = &mut writing => return,
        () = read(from, sender) => {}
    }
    writing.await;
}

async fn read(mut from: OwnedReadHalf, sender: mpsc::Sender<(Instant, Bytes)>) {
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        match from.read_buf(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if sender.send((Instant::now(), chunk.freeze())).await.is_err() {
            return;
        }
    }
}

/// Returns when what arrived then may leave.
async fn pass(link: &mut watch::Receiver<Link>, arrived: Instant) {
    loop {
        let state = *link.borrow_and_update();
        tokio::select! {
            () = sleep_until(arrived + delay(state)), if state != Link::Cut => return,
            changed = link.changed() => if changed.is_err() {
                return;
            }
        }
    }
}

fn delay(link: Link) -> std::time::Duration {
    match link {
        Link::Slow(delay) => delay,
        Link::Open | Link::Cut => std::time::Duration::ZERO,
    }
}
