//! The images of a stream that are not answered yet: pure bookkeeping.

use std::collections::BTreeMap;
use std::time::Duration;

use omma_proto::v1::{IngestImagesRequest, NewImage, new_image::Content};
use tokio::time::Instant;

/// What an image weighs beside its picture: ids, attributes, framing. Rough.
const OVERHEAD_BYTES: usize = 512;

/// An unanswered image.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) request: IngestImagesRequest,
    bytes: usize,
    /// When it was first sent.
    since: Instant,
    /// How often it was answered with an error that a retry may help.
    refusals: u32,
    /// When it goes out again, if it waits.
    due: Option<Instant>,
}

/// The unanswered images, by sequence number.
#[derive(Debug)]
pub(super) struct Window {
    pending: BTreeMap<u64, Pending>,
    bytes: usize,
    next_sequence: u64,
    most_images: usize,
    most_bytes: usize,
}

impl Window {
    pub(super) fn new(most_images: usize, most_bytes: usize) -> Self {
        Self { pending: BTreeMap::new(), bytes: 0, next_sequence: 1, most_images: most_images.max(1), most_bytes }
    }

    /// Whether another image may be taken in. One always may: an image larger than the window must pass too.
    pub(super) fn has_room(&self) -> bool {
        self.pending.is_empty() || (self.pending.len() < self.most_images && self.bytes < self.most_bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Takes an image in; returns what to send.
    pub(super) fn push(
        &mut self,
        collection: &str,
        image: NewImage,
        request_id: String,
        now: Instant,
    ) -> IngestImagesRequest {
        let bytes = weight(&image);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.bytes += bytes;
        let request =
            IngestImagesRequest { collection: collection.to_owned(), sequence, image: Some(image), request_id };
        let pending = Pending { request: request.clone(), bytes, since: now, refusals: 0, due: None };
        self.pending.insert(sequence, pending);
        request
    }

    /// Takes an answered image out; `None` if it is not waited for (an answer that came twice).
    pub(super) fn answer(&mut self, sequence: u64) -> Option<Pending> {
        let pending = self.pending.remove(&sequence)?;
        self.bytes -= pending.bytes;
        Some(pending)
    }

    /// How often an image has been refused, and how long it has been tried.
    pub(super) fn history(&self, sequence: u64, now: Instant) -> Option<(u32, Duration)> {
        let pending = self.pending.get(&sequence)?;
        Some((pending.refusals, now.saturating_duration_since(pending.since)))
    }

    /// Lets a refused image wait until `due`.
    pub(super) fn postpone(&mut self, sequence: u64, due: Instant) {
        if let Some(pending) = self.pending.get_mut(&sequence) {
            pending.refusals += 1;
            pending.due = Some(due);
        }
    }

    /// When the first waiting image goes out again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.pending.values().filter_map(|p| p.due).min()
    }

    /// The waiting images that are due now; they wait no longer.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<IngestImagesRequest> {
        let due = self.pending.values_mut().filter(|p| p.due.is_some_and(|due| due <= now));
        due.map(|p| (p.due = None, p.request.clone()).1).collect()
    }

    /// All unanswered images in their order, for a new connection; none waits any longer.
    pub(super) fn resend(&mut self) -> Vec<IngestImagesRequest> {
        self.pending.values_mut().map(|p| (p.due = None, p.request.clone()).1).collect()
    }

    /// Empties the window.
    pub(super) fn drain(&mut self) -> Vec<Pending> {
        self.bytes = 0;
        std::mem::take(&mut self.pending).into_values().collect()
    }
}

fn weight(image: &NewImage) -> usize {
    let content = match &image.content {
        Some(Content::Picture(bytes)) => bytes.len(),
        Some(Content::Embedding(embedding)) => embedding.values.len() * 4,
        None => 0,
    };
    content + image.id.len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::image_from_picture;

    fn push(window: &mut Window, id: &str, bytes: usize) -> u64 {
        let image = image_from_picture(id, vec![0u8; bytes]);
        window.push("c", image, format!("request-{id}"), Instant::now()).sequence
    }

    #[test]
    fn images_and_bytes_are_bounded() {
        let mut window = Window::new(2, 10_000);
        let first = push(&mut window, "a", 1);
        assert!(window.has_room());
        push(&mut window, "b", 1);
        assert!(!window.has_room());
        assert!(window.answer(first).is_some() && window.has_room());
        push(&mut window, "c", 20_000);
        assert!(!window.has_room());
    }

    #[test]
    fn one_image_always_fits() {
        let mut window = Window::new(10, 10);
        assert!(window.has_room());
        let only = push(&mut window, "huge", 1000);
        assert!(!window.has_room());
        assert_eq!(window.answer(only).unwrap().request.sequence, only);
        assert!(window.has_room() && window.is_empty());
        assert_eq!(window.bytes, 0);
    }

    #[test]
    fn what_is_sent_again_keeps_its_request_id() {
        let mut window = Window::new(10, 1 << 20);
        let sequences: Vec<u64> = ["a", "b", "c"].iter().map(|id| push(&mut window, id, 1)).collect();
        window.answer(sequences[1]);
        let again: Vec<_> = window.resend().into_iter().map(|r| (r.sequence, r.request_id)).collect();
        assert_eq!(again, [(sequences[0], "request-a".to_owned()), (sequences[2], "request-c".to_owned())]);
        assert!(window.answer(sequences[1]).is_none(), "an answer that comes twice is dropped");
    }

    #[test]
    fn refused_images_wait_their_time() {
        let mut window = Window::new(10, 1 << 20);
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let sequence = push(&mut window, "a", 1);
        window.postpone(sequence, later);
        assert_eq!((window.next_due(), window.history(sequence, now).unwrap().0), (Some(later), 1));
        assert!(window.take_due(now).is_empty());
        assert_eq!(window.take_due(later).len(), 1);
        assert_eq!(window.next_due(), None);
    }
}
