//! Images in memory, searched exactly.

use std::collections::{BTreeMap, HashMap};

use omma_common::error::{ApiError, Reason};
use omma_common::topk::TopK;
use omma_common::vector::normalise;
use omma_proto::v1::filter::Condition;
use omma_proto::v1::{
    AttributeValue, Collection, Embedding, Hit, Image, NewImage, PutEffect, Query, VectorSpace, new_image, query,
};

pub const DIMENSION: usize = 64;

/// Stands in for an encoder: how often each value of byte / 4 occurs. Refuses what does not look like a picture.
pub fn embed(picture: &[u8]) -> Result<Vec<f32>, ApiError> {
    if picture.starts_with(b"broken") || picture.is_empty() {
        return Err(ApiError::bad_field(Reason::InvalidPicture, "picture", "is no picture of a known format"));
    }
    let mut counts = vec![0f32; DIMENSION];
    picture.iter().for_each(|b| counts[usize::from(b / 4)] += 1.0);
    normalise(&mut counts, DIMENSION).unwrap();
    Ok(counts)
}

#[derive(Debug, Clone)]
struct Stored {
    embedding: Vec<f32>,
    attributes: BTreeMap<String, AttributeValue>,
    digest: Vec<u8>,
}

#[derive(Debug, Default)]
pub struct Store {
    collections: BTreeMap<String, (Collection, BTreeMap<String, Stored>)>,
    effects: HashMap<String, PutEffect>,
    next_uid: u64,
    pub applied: u64,
}

pub fn space() -> VectorSpace {
    VectorSpace { id: "omma-enc-fake".into(), dimension: DIMENSION as u32 }
}

impl Store {
    pub fn create(&mut self, name: &str, space_asked: Option<VectorSpace>) -> Result<Collection, ApiError> {
        omma_common::ids::check_collection_name(name).map_err(|e| ApiError::field("name", e))?;
        if self.collections.contains_key(name) {
            return Err(ApiError::new(Reason::CollectionExists, format!("the collection {name:?} exists")));
        }
        self.next_uid += 1;
        let collection = Collection {
            name: name.into(),
            uid: self.next_uid,
            vector_space: Some(space_asked.unwrap_or_else(space)),
            create_time: None,
            image_count: 0,
            quantization: 0,
        };
        self.collections.insert(name.into(), (collection.clone(), BTreeMap::new()));
        Ok(collection)
    }

    pub fn get(&self, name: &str) -> Result<Collection, ApiError> {
        let (collection, images) = self.collections.get(name).ok_or_else(|| no_collection(name))?;
        Ok(Collection { image_count: images.len() as u64, ..collection.clone() })
    }

    pub fn list(&self) -> Vec<Collection> {
        self.collections.values().map(|(c, _)| c.clone()).collect()
    }

    pub fn delete_collection(&mut self, name: &str) -> Result<(), ApiError> {
        self.collections.remove(name).map(|_| ()).ok_or_else(|| no_collection(name))
    }

    pub fn put(&mut self, collection: &str, image: NewImage, request_id: &str) -> Result<PutEffect, ApiError> {
        let (_, images) = self.collections.get_mut(collection).ok_or_else(|| no_collection(collection))?;
        omma_common::ids::check_image_id(&image.id).map_err(|e| ApiError::field("image.id", e))?;
        let key = format!("{request_id}/{}", image.id);
        if let Some(&effect) = self.effects.get(&key).filter(|_| !request_id.is_empty()) {
            return Ok(effect);
        }
        let (embedding, digest) = match image.content {
            Some(new_image::Content::Picture(bytes)) => (embed(&bytes)?, blake3_of(&bytes)),
            Some(new_image::Content::Embedding(e)) => {
                let mut values = e.values;
                normalise(&mut values, DIMENSION)
                    .map_err(|e| ApiError::bad_field(Reason::InvalidEmbedding, "embedding", e))?;
                (values, Vec::new())
            }
            None => return Err(ApiError::field("image.content", "must be set")),
        };
        let stored = Stored { embedding, attributes: image.attributes, digest };
        let effect = match images.get(&image.id) {
            None => PutEffect::Created,
            Some(old)
                if !old.digest.is_empty() && old.digest == stored.digest && old.attributes == stored.attributes =>
            {
                PutEffect::Unchanged
            }
            Some(_) => PutEffect::Replaced,
        };
        images.insert(image.id, stored);
        self.effects.insert(key, effect);
        self.applied += 1;
        Ok(effect)
    }

    pub fn image(&self, collection: &str, id: &str, embedding: bool) -> Result<Option<Image>, ApiError> {
        let (_, images) = self.collections.get(collection).ok_or_else(|| no_collection(collection))?;
        Ok(images.get(id).map(|s| Image {
            id: id.into(),
            attributes: s.attributes.clone(),
            content_digest: s.digest.clone(),
            embedding: embedding.then(|| Embedding { values: s.embedding.clone() }),
        }))
    }

    pub fn delete(&mut self, collection: &str, ids: &[String]) -> Result<u32, ApiError> {
        let (_, images) = self.collections.get_mut(collection).ok_or_else(|| no_collection(collection))?;
        self.applied += 1;
        Ok(ids.iter().filter(|id| images.remove(*id).is_some()).count() as u32)
    }

    pub fn count(&self) -> u64 {
        self.collections.values().map(|(_, images)| images.len() as u64).sum()
    }

    pub fn search(&self, collection: &str, query: &Query) -> Result<Vec<Hit>, ApiError> {
        let (_, images) = self.collections.get(collection).ok_or_else(|| no_collection(collection))?;
        let (vector, itself) = match &query.target {
            Some(query::Target::Picture(bytes)) => (embed(bytes)?, None),
            Some(query::Target::Embedding(e)) => {
                let mut values = e.values.clone();
                normalise(&mut values, DIMENSION)
                    .map_err(|e| ApiError::bad_field(Reason::InvalidEmbedding, "query.embedding", e))?;
                (values, None)
            }
            Some(query::Target::ImageId(id)) => {
                let stored = images.get(id).ok_or_else(|| no_image(id))?;
                (stored.embedding.clone(), Some(id.as_str()))
            }
            None => return Err(ApiError::field("query.target", "must be set")),
        };
        let k = if query.k == 0 { 10 } else { query.k };
        let mut top = TopK::new(k as usize);
        let wanted = |stored: &Stored| match query.filter.as_ref().map(|f| &f.condition) {
            None => Ok(true),
            Some(Some(Condition::Equals(c))) => Ok(stored.attributes.get(&c.attribute) == c.value.as_ref()),
            Some(other) => Err(ApiError::field("query.filter", format!("is not known here: {other:?}"))),
        };
        for (id, stored) in images.iter().filter(|(id, _)| Some(id.as_str()) != itself) {
            if !wanted(stored)? {
                continue;
            }
            let score: f32 = vector.iter().zip(&stored.embedding).map(|(a, b)| a * b).sum();
            if query.min_score.is_none_or(|least| score >= least) {
                top.push((id.clone(), score));
            }
        }
        let hit = |(id, score): (String, f32)| Hit { attributes: images[&id].attributes.clone(), id, score };
        Ok(top.into_sorted().into_iter().map(hit).collect())
    }
}

fn blake3_of(bytes: &[u8]) -> Vec<u8> {
    blake3::hash(bytes).as_bytes().to_vec()
}

fn no_collection(name: &str) -> ApiError {
    ApiError::new(Reason::CollectionNotFound, format!("there is no collection {name:?}"))
}

pub fn no_image(id: &str) -> ApiError {
    ApiError::new(Reason::ImageNotFound, format!("there is no image {id:?}"))
}
