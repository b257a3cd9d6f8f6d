//! Puts and deletes: one internal call per shard group (or part of one), all at once, each repeated with one request
//! id until its outcome is known.

use std::collections::BTreeMap;

use futures::future::join_all;
use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::ids::{GroupId, METADATA_GROUP};
use omma_common::limits::MAX_REQUEST_ID_BYTES;
use omma_common::retry::Backoff;
use omma_common::session::Session;
use omma_proto::internal::v1 as node;
use omma_proto::v1::{NewImage, PutResult};
use prost::Message;

use crate::access::client_id;
use crate::error::placed;
use crate::leader::{Effect, call_leader, slots_moved, unsure};
use crate::routing::{ClusterMap, Collection, Routing};

/// Most images of one internal call.
const MAX_CHUNK_IMAGES: usize = 256;
/// Most bytes of one internal call: a message, less room for the rest of it. One image may be larger.
const MAX_CHUNK_BYTES: usize = 24 << 20;

/// What a put did to each image, and what a later read must reach.
#[derive(Debug)]
pub(crate) struct Put {
    /// In the order of the request.
    pub(crate) results: Vec<PutResult>,
    pub(crate) session: Session,
}

/// The request id of part `part` of a write. The parts of one group are different commands, so their ids differ;
/// each is the same whenever the caller retries.
fn part_id(request_id: &str, part: usize) -> String {
    if part == 0 {
        return request_id.to_owned();
    }
    let mut hash = blake3::Hasher::new();
    hash.update(&(part as u64).to_le_bytes()).update(request_id.as_bytes());
    let mut id = hash.finalize().to_hex().to_string();
    id.truncate(MAX_REQUEST_ID_BYTES);
    id
}

/// The caller's request id, or one of our own, so that our retries are safe.
pub(crate) fn request_id_or_new(given: &str) -> String {
    if given.is_empty() { uuid::Uuid::new_v4().to_string() } else { given.to_owned() }
}

/// One internal call: which images of the request, by position.
#[derive(Debug, PartialEq, Eq)]
struct Chunk {
    group: GroupId,
    part: usize,
    places: Vec<usize>,
}

/// Cuts a put into parts, in the order of the request, each within the bounds; then, by group, those places of each part
/// that are still to be put into internal calls. An image is in the same part whatever the map says, so that it keeps
/// its request id while slots move.
fn chunks(map: &ClusterMap, images: &[NewImage], pending: &[usize]) -> Vec<Chunk> {
    let mut chunks: BTreeMap<(usize, GroupId), Vec<usize>> = BTreeMap::new();
    let (mut part, mut count, mut size) = (0, 0, 0);
    let mut pending = pending.iter().peekable();
    for (place, image) in images.iter().enumerate() {
        let bytes = image.encoded_len();
        if count > 0 && (count == MAX_CHUNK_IMAGES || size + bytes > MAX_CHUNK_BYTES) {
            (part, count, size) = (part + 1, 0, 0);
        }
        (count, size) = (count + 1, size + bytes);
        if pending.next_if(|next| **next == place).is_some() {
            chunks.entry((part, map.group_of(&image.id))).or_default().push(place);
        }
    }
    chunks.into_iter().map(|((part, group), places)| Chunk { group, part, places }).collect()
}

/// Puts checked images; `path` gives an image's field in the request by its place. An image's own failure is in its result; the call fails only if no group answered at all.
pub(crate) async fn put(
    routing: &Routing,
    collection: &Collection,
    images: Vec<NewImage>,
    path: impl Fn(usize) -> String,
    request_id: &str,
    deadline: Deadline,
) -> Result<Put, ApiError> {
    let mut pending: Vec<usize> = (0..images.len()).collect();
    let (mut ended, mut maybe_done, mut epoch) = (Vec::new(), false, 0);
    let mut backoff = Backoff::in_cluster();
    while !pending.is_empty() {
        let map = routing.map().await?;
        let chunks = chunks(&map, &images, &pending);
        let answers = join_all(chunks.iter().map(|chunk| {
            let images: Vec<NewImage> = chunk.places.iter().map(|place| images[*place].clone()).collect();
            put_chunk(routing, collection, chunk.group, images, part_id(request_id, chunk.part), deadline)
        }))
        .await;
        epoch = map.epoch;
        let moved = answers.iter().any(|answer| answer.as_ref().is_err_and(slots_moved));
        let again = moved && routing.refreshed(&mut backoff, deadline).await;
        pending.clear();
        for (chunk, answer) in chunks.into_iter().zip(answers) {
            match answer {
                Err(error) if again && slots_moved(&error) => {
                    maybe_done |= error.reason == Reason::OutcomeUnknown;
                    pending.extend(chunk.places);
                }
                answer => ended.push((chunk, answer.map_err(|e| if maybe_done { unsure(e) } else { e }))),
            }
        }
        pending.sort_unstable();
    }
    let (chunks, answers): (Vec<_>, Vec<_>) = ended.into_iter().unzip();
    let mut put = merge_put(&images, &chunks, answers)?;
    put.session.require(METADATA_GROUP, epoch);
    for (place, result) in put.results.iter_mut().enumerate() {
        result.error = result.error.take().map(|error| placed(error, &path(place)));
    }
    Ok(put)
}

async fn put_chunk(
    routing: &Routing,
    collection: &Collection,
    group: GroupId,
    images: Vec<NewImage>,
    request_id: String,
    deadline: Deadline,
) -> Result<node::PutImagesResponse, ApiError> {
    call_leader(routing, group, Effect::Write, deadline, |node, map| {
        let request = node::PutImagesRequest {
            target: Some(collection.target(group, map)),
            images: images.clone(),
            request_id: request_id.clone(),
            client: client_id(),
        };
        async move { node.put_images(deadline, request).await }
    })
    .await
}

/// Puts the answers back into the order of the request.
fn merge_put(
    images: &[NewImage],
    chunks: &[Chunk],
    answers: Vec<Result<node::PutImagesResponse, ApiError>>,
) -> Result<Put, ApiError> {
    let mut results: Vec<_> =
        images.iter().map(|image| PutResult { id: image.id.clone(), ..Default::default() }).collect();
    let mut session = Session::default();
    let (mut any, mut failure) = (false, None);
    for (chunk, answer) in chunks.iter().zip(answers) {
        let answer = answer.and_then(|a| match a.results.len() == chunk.places.len() {
            true => Ok(a),
            false => Err(miscounted(chunk.group, chunk.places.len(), a.results.len())),
        });
        match answer {
            Ok(answer) => {
                any = true;
                session.require(chunk.group, answer.applied_index);
                for (place, result) in chunk.places.iter().zip(answer.results) {
                    results[*place].effect = result.effect;
                    results[*place].error = result.error;
                }
            }
            // It is gone for all groups.
            Err(error) if error.reason == Reason::CollectionNotFound => return Err(error),
            Err(error) => {
                let status = error.to_rpc_status();
                chunk.places.iter().for_each(|place| results[*place].error = Some(status.clone()));
                failure.get_or_insert(error);
            }
        }
    }
    match failure {
        Some(error) if !any => Err(error),
        _ => Ok(Put { results, session }),
    }
}

fn miscounted(group: GroupId, sent: usize, got: usize) -> ApiError {
    ApiError::new(Reason::Internal, format!("shard group {group} gave {got} answers to {sent} images"))
}

/// Deletes images; returns how many existed.
pub(crate) async fn delete(
    routing: &Routing,
    collection: &Collection,
    ids: &[String],
    request_id: &str,
    deadline: Deadline,
) -> Result<(u32, Session), ApiError> {
    let (mut deleted, mut session, mut maybe_done) = (0, Session::default(), false);
    let mut pending = ids.to_vec();
    let mut backoff = Backoff::in_cluster();
    while !pending.is_empty() {
        let map = routing.map().await?;
        let mut by_group: BTreeMap<GroupId, Vec<String>> = BTreeMap::new();
        for id in std::mem::take(&mut pending) {
            by_group.entry(map.group_of(&id)).or_default().push(id);
        }
        let calls = by_group.iter().map(|(&group, ids)| {
            call_leader(routing, group, Effect::Write, deadline, move |node, map| {
                let request = node::DeleteImagesRequest {
                    target: Some(collection.target(group, map)),
                    ids: ids.clone(),
                    request_id: request_id.to_owned(),
                };
                async move { node.delete_images(deadline, request).await }
            })
        });
        let answers = join_all(calls).await;
        session.require(METADATA_GROUP, map.epoch);
        let moved = answers.iter().any(|answer| answer.as_ref().is_err_and(slots_moved));
        let again = moved && routing.refreshed(&mut backoff, deadline).await;
        for ((group, ids), answer) in by_group.into_iter().zip(answers) {
            match answer {
                Ok(answer) => {
                    deleted += answer.deleted_count;
                    session.require(group, answer.applied_index);
                }
                Err(error) if again && slots_moved(&error) => {
                    maybe_done |= error.reason == Reason::OutcomeUnknown;
                    pending.extend(ids);
                }
                Err(error) => return Err(if maybe_done { unsure(error) } else { error }),
            }
        }
    }
    Ok((deleted, session))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use omma_proto::v1::PutEffect;
    use omma_proto::v1::new_image::Content;
    use proptest::prelude::*;

    fn map(groups: u32) -> ClusterMap {
        let width = 4096 / groups;
        let metadata = node::Metadata {
            version: 1,
            cluster_id: "c".into(),
            nodes: vec![node::Node { node_id: 1, address: "n:1".into(), ..Default::default() }],
            groups: (0..groups)
                .map(|g| node::Group {
                    group_id: g + 1,
                    slots: vec![node::SlotRange {
                        first: g * width,
                        last: if g + 1 == groups { 4095 } else { (g + 1) * width - 1 },
                    }],
                    replicas: vec![1],
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        ClusterMap::from_metadata(metadata).unwrap()
    }

    fn image(id: usize, bytes: usize) -> NewImage {
        let content = Some(Content::Picture(Bytes::from(vec![0; bytes])));
        NewImage { id: format!("i{id}"), content, ..Default::default() }
    }

    proptest! {
        #[test]
        fn each_image_is_in_one_chunk_of_its_group(sizes in prop::collection::vec(0usize..3000, 0..400), groups in 1u32..5) {
            let map = map(groups);
            let images: Vec<_> = sizes.iter().enumerate().map(|(i, s)| image(i, *s)).collect();
            let all: Vec<usize> = (0..images.len()).collect();
            let chunks = chunks(&map, &images, &all);
            let mut seen: Vec<_> = chunks.iter().flat_map(|c| c.places.clone()).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..images.len()).collect::<Vec<_>>());
            for chunk in &chunks {
                prop_assert!(chunk.places.len() <= MAX_CHUNK_IMAGES);
                prop_assert!(chunk.places.windows(2).all(|w| w[0] < w[1]));
                prop_assert!(chunk.places.iter().all(|p| map.group_of(&images[*p].id) == chunk.group));
            }
        }
    }

    #[test]
    fn large_pictures_travel_apart() {
        let images: Vec<_> = (0..3).map(|i| image(i, 10 << 20)).collect();
        let chunks = chunks(&map(1), &images, &[0, 1, 2]);
        assert_eq!(
            chunks.iter().map(|c| (c.part, c.places.clone())).collect::<Vec<_>>(),
            [(0, vec![0, 1]), (1, vec![2])]
        );
        // Whatever is left and wherever it goes, it keeps its part.
        let left = super::chunks(&map(2), &images, &[2]);
        assert_eq!(left.iter().map(|c| (c.part, c.places.clone())).collect::<Vec<_>>(), [(1, vec![2])]);
    }

    #[test]
    fn part_ids_differ_and_repeat() {
        let id = "x".repeat(64);
        assert_eq!(part_id(&id, 0), id);
        assert_eq!(part_id(&id, 3), part_id(&id, 3));
        assert_ne!(part_id(&id, 1), part_id(&id, 2));
        assert!(omma_common::ids::check_request_id(&part_id(&id, 9)).is_ok());
        assert_eq!(request_id_or_new("mine"), "mine");
        assert_ne!(request_id_or_new(""), request_id_or_new(""));
    }

    #[test]
    fn answers_return_to_their_places() {
        let images: Vec<_> = (0..3).map(|i| image(i, 1)).collect();
        let chunks = [Chunk { group: 1, part: 0, places: vec![0, 2] }, Chunk { group: 2, part: 0, places: vec![1] }];
        let done = |effects: &[PutEffect], index| {
            let results = effects.iter().map(|e| PutResult { effect: *e as i32, ..Default::default() }).collect();
            Ok(node::PutImagesResponse { results, applied_index: index })
        };
        let down = || Err(ApiError::new(Reason::GroupUnavailable, "down"));

        let answers = vec![done(&[PutEffect::Created, PutEffect::Replaced], 8), down()];
        let put = merge_put(&images, &chunks, answers).unwrap();
        assert_eq!(put.results.iter().map(|r| r.effect).collect::<Vec<_>>(), [1, 0, 2]);
        assert_eq!(put.results[1].error.as_ref().unwrap().code, tonic::Code::Unavailable as i32);
        assert_eq!(put.results[2].id, "i2");
        assert_eq!((put.session.required(1), put.session.required(2)), (8, 0));

        assert_eq!(merge_put(&images, &chunks, vec![down(), down()]).unwrap_err().reason, Reason::GroupUnavailable);
        let gone = Err(ApiError::new(Reason::CollectionNotFound, "gone"));
        let answers = vec![done(&[PutEffect::Created, PutEffect::Created], 8), gone];
        assert_eq!(merge_put(&images, &chunks, answers).unwrap_err().reason, Reason::CollectionNotFound);
        let answers = vec![done(&[PutEffect::Created], 8), down()];
        assert_eq!(merge_put(&images, &chunks, answers).unwrap_err().reason, Reason::Internal);
    }
}
