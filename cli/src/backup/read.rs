//! One group's images, out of the cluster and into parts.

use indicatif::ProgressBar;
use omma_client::Omma;
use omma_client::proto::GroupCut;
use omma_common::error::Reason;
use prost::Message;

use super::TRIES;
use super::manifest::{self, FORMAT, GroupManifest};
use super::part::{Part, PartWriter, SetDigest};
use super::store::Store;
use crate::exit::CliError;
use crate::output::note;

/// A part is closed when it has so many bytes.
const PART_BYTES: u64 = 64 << 20;

/// Where a backup comes from and goes to.
pub(super) struct Source<'a> {
    pub(super) omma: &'a Omma,
    pub(super) store: &'a Store,
    pub(super) collection: &'a str,
    pub(super) bar: &'a ProgressBar,
}

struct Images {
    parts: Vec<Part>,
    count: u64,
    digest: SetDigest,
}

impl Source<'_> {
    /// Reads a group, with a new cut if one is gone, and writes its manifest.
    pub(super) async fn group(&self, uid: u64, map_epoch: u64, cut: GroupCut) -> Result<GroupManifest, CliError> {
        let mut cut = cut;
        for _ in 0..TRIES {
            let before = self.bar.position();
            match self.images(&cut).await {
                Ok(images) => return self.finish(uid, map_epoch, &cut, images).await,
                Err(CliError::Client(error)) if error.reason() == Some(Reason::BackupExpired) => {
                    note(format!("group {} is read again: {error}", cut.group_id));
                    self.bar.set_position(before);
                    let begun = self.omma.begin_backup(self.collection, &[cut.group_id]).await?;
                    let same = begun.map_epoch == map_epoch;
                    cut = begun.cuts.into_iter().next().filter(|_| same).ok_or_else(|| {
                        CliError::Failed("the cluster map has changed meanwhile: run the backup again".into())
                    })?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(CliError::Failed(format!(
            "group {} changes too quickly: {TRIES} cuts of it were gone too soon",
            cut.group_id
        )))
    }

    async fn images(&self, cut: &GroupCut) -> Result<Images, CliError> {
        let mut writer: Option<PartWriter> = None;
        let read = self.parts(cut, &mut writer).await;
        if let (Err(_), Some(part)) = (&read, writer) {
            part.abort().await;
        }
        read
    }

    async fn parts(&self, cut: &GroupCut, writer: &mut Option<PartWriter>) -> Result<Images, CliError> {
        let mut images = Images { parts: Vec::new(), count: 0, digest: SetDigest::default() };
        let mut page_token = String::new();
        loop {
            let page = self.omma.read_backup(self.collection, &cut.cut_token, &page_token).await?;
            for image in &page.images {
                let encoded = image.encode_to_vec();
                images.digest.add(&encoded);
                images.count += 1;
                let name = format!("group-{}-{:05}.part", cut.group_id, images.parts.len());
                let part = match writer {
                    Some(part) => part,
                    None => writer.insert(PartWriter::create(self.store, name).await?),
                };
                part.add(&encoded).await?;
            }
            self.bar.inc(page.images.len() as u64);
            page_token = page.next_page_token;
            let full = writer.as_ref().is_some_and(|part| part.bytes() >= PART_BYTES);
            if let Some(part) = writer.take_if(|_| full || page_token.is_empty()) {
                images.parts.push(part.finish().await?);
            }
            if page_token.is_empty() {
                return Ok(images);
            }
        }
    }

    async fn finish(
        &self,
        uid: u64,
        map_epoch: u64,
        cut: &GroupCut,
        images: Images,
    ) -> Result<GroupManifest, CliError> {
        if images.count != cut.image_count {
            let text = format!(
                "group {} has {} images at index {} and {} were read: report this",
                cut.group_id, cut.image_count, cut.applied_index, images.count
            );
            return Err(CliError::Failed(text));
        }
        let group = GroupManifest {
            format: FORMAT,
            collection_uid: uid,
            map_epoch,
            group_id: cut.group_id,
            applied_index: cut.applied_index,
            images: images.count,
            digest: images.digest.to_hex(),
            parts: images.parts,
        };
        manifest::write(self.store, &manifest::group_name(cut.group_id), &group).await?;
        Ok(group)
    }
}
