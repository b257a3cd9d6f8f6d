//! Backups: what a collection holds at one moment of each shard group, and putting it back.

use omma_common::deadline::Deadline;
use omma_proto::v1::backup_service_client::BackupServiceClient;
use omma_proto::v1::{
    BackupImage, BeginBackupRequest, BeginBackupResponse, ReadBackupRequest, ReadBackupResponse, RestoreImagesRequest,
};

use crate::call::{Link, Omma, new_request_id};
use crate::error::ClientError;
use crate::retry::Repeatable;

impl Omma {
    fn backups(&self) -> BackupServiceClient<Link> {
        let most = self.settings.max_message_bytes;
        BackupServiceClient::new(self.link()).max_decoding_message_size(most).max_encoding_message_size(most)
    }

    /// Fixes what a collection holds now in these shard groups, or in all of them if none is named.
    pub async fn begin_backup(&self, collection: &str, groups: &[u32]) -> Result<BeginBackupResponse, ClientError> {
        let request = BeginBackupRequest { collection: collection.to_owned(), group_ids: groups.to_vec() };
        let attempt = |deadline: Deadline| {
            let (mut client, request) = (self.backups(), deadline.request(request.clone()));
            async move { client.begin_backup(request).await }
        };
        self.call("BeginBackup", Repeatable::Yes, attempt).await
    }

    /// A page of what was fixed; `page_token` is empty for the first one.
    pub async fn read_backup(
        &self,
        collection: &str,
        cut_token: &str,
        page_token: &str,
    ) -> Result<ReadBackupResponse, ClientError> {
        let (collection, cut_token) = (collection.to_owned(), cut_token.to_owned());
        let request = ReadBackupRequest { collection, cut_token, page_token: page_token.to_owned() };
        let attempt = |deadline: Deadline| {
            let (mut client, request) = (self.backups(), deadline.request(request.clone()));
            async move { client.read_backup(request).await }
        };
        self.call("ReadBackup", Repeatable::Yes, attempt).await
    }

    /// Stores up to 256 images exactly as they were; those that are there already stay.
    pub async fn restore_images(&self, collection: &str, images: Vec<BackupImage>) -> Result<u32, ClientError> {
        let request = RestoreImagesRequest { collection: collection.to_owned(), images, request_id: new_request_id() };
        let attempt = |deadline: Deadline| {
            let (mut client, request) = (self.backups(), deadline.request(request.clone()));
            async move { client.restore_images(request).await }
        };
        Ok(self.call("RestoreImages", Repeatable::Yes, attempt).await?.restored_count)
    }
}
