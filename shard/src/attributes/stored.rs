//! The index as bytes, for a checkpoint.

use bytes::Bytes;
use omma_proto::internal::v1::stored_posting::Rows;
use omma_proto::internal::v1::{StoredAttributes, StoredField, StoredPosting};
use parking_lot::RwLock;
use prost::Message;
use roaring::RoaringBitmap;

use super::AttributeIndex;
use super::bounds::Float;
use super::field::Field;
use super::keys::Keys;
use super::posting::{Posting, renumbered};

const FORMAT: u32 = 1;

/// The bytes are no index.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the attribute index is damaged or of another version: {0}")]
pub(crate) struct StoredError(String);

fn damaged(why: impl std::fmt::Display) -> StoredError {
    StoredError(why.to_string())
}

/// The records with keys up to `watermark` that live as it begins, for [`AttributeIndex::restore`]. Not checksummed.
/// Whoever changes the index waits for one attribute's part at most.
pub(crate) fn export(index: &RwLock<AttributeIndex>, watermark: u64) -> Vec<u8> {
    loop {
        // Rows get new numbers rarely: hardly ever while this runs.
        if let Some(stored) = read_all(index, watermark) {
            return stored.encode_to_vec();
        }
    }
}

/// `None` if rows got other numbers meanwhile.
fn read_all(index: &RwLock<AttributeIndex>, watermark: u64) -> Option<StoredAttributes> {
    let (numbering, names, key_steps, new_rows) = {
        let index = index.read();
        let rows: Vec<u32> = index.living.iter().take_while(|row| index.keys.key(*row) <= watermark).collect();
        let mut new_rows = vec![None; index.keys.len()];
        (0..).zip(&rows).for_each(|(new, old)| new_rows[*old as usize] = Some(new));
        let mut last = 0;
        let step = |row: u32| {
            let key = index.keys.key(row);
            key - std::mem::replace(&mut last, key)
        };
        let key_steps = rows.into_iter().map(step).collect();
        (index.numbering, index.fields.keys().cloned().collect::<Vec<_>>(), key_steps, new_rows)
    };
    let mut fields = Vec::with_capacity(names.len());
    for name in names {
        let index = index.read();
        if index.numbering != numbering {
            return None;
        }
        fields.extend(index.fields.get(&name).and_then(|field| write_field(&name, field, &new_rows)));
    }
    Some(StoredAttributes { format: FORMAT, key_steps, fields })
}

impl AttributeIndex {
    /// An index out of what [`export`] gave, without the records whose keys are in `removed`.
    pub(crate) fn restore(bytes: &[u8], removed: impl IntoIterator<Item = u64>) -> Result<Self, StoredError> {
        let stored = StoredAttributes::decode(bytes).map_err(damaged)?;
        if stored.format != FORMAT {
            return Err(damaged(format!("it has format {}; this version reads format {FORMAT}", stored.format)));
        }
        let mut keys = Keys::default();
        for step in stored.key_steps {
            let key = keys.last().unwrap_or(0).checked_add(step).filter(|_| step > 0);
            keys.push(key.ok_or_else(|| damaged("its keys do not rise"))?);
        }
        let rows = keys.len() as u32;
        let mut index = Self { living: (0..rows).collect(), keys, ..Self::default() };
        for field in stored.fields {
            let (name, field) = read_field(field, rows)?;
            index.fields.insert(name, field);
        }
        removed.into_iter().for_each(|key| index.remove(key));
        Ok(index)
    }
}

fn write_rows(rows: &Posting, new_rows: &[Option<u32>]) -> Bytes {
    write_bitmap(&renumbered(&rows.to_rows(), new_rows))
}

fn write_bitmap(rows: &RoaringBitmap) -> Bytes {
    let mut bytes = Vec::with_capacity(rows.serialized_size());
    // Writing to memory does not fail.
    let _ = rows.serialize_into(&mut bytes);
    bytes.into()
}

/// `None` if no row that is written has the attribute.
fn write_field(name: &str, field: &Field, new_rows: &[Option<u32>]) -> Option<StoredField> {
    let present = renumbered(&field.present(), new_rows);
    if present.is_empty() {
        return None;
    }
    let strings = field.strings.iter().filter_map(|(digest, rows)| {
        let rows = renumbered(&rows.to_rows(), new_rows);
        let rows = match (rows.len(), rows.min()) {
            (0, _) => return None,
            (1, Some(row)) => Rows::Row(row),
            _ => Rows::Bitmap(write_bitmap(&rows)),
        };
        Some(StoredPosting { digest: digest.to_vec().into(), rows: Some(rows) })
    });
    let mut stored = StoredField {
        name: name.to_owned(),
        present: write_bitmap(&present),
        falses: write_rows(&field.falses, new_rows),
        trues: write_rows(&field.trues, new_rows),
        strings: strings.collect(),
        ..StoredField::default()
    };
    let new = |row: u32| new_rows.get(row as usize).copied().flatten();
    for (value, row) in field.integers.entries().into_iter().filter_map(|(v, row)| Some((v, new(row)?))) {
        stored.integers.push(value);
        stored.integer_rows.push(row);
    }
    for (value, row) in field.floats.entries().into_iter().filter_map(|(v, row)| Some((v, new(row)?))) {
        stored.floats.push(value.0);
        stored.float_rows.push(row);
    }
    for ((seconds, nanos), row) in field.times.entries().into_iter().filter_map(|(v, row)| Some((v, new(row)?))) {
        stored.seconds.push(seconds);
        stored.nanos.push(nanos as u32);
        stored.time_rows.push(row);
    }
    Some(stored)
}

fn read_field(stored: StoredField, rows: u32) -> Result<(String, Field), StoredError> {
    let bitmap = |bytes: &Bytes| -> Result<Posting, StoredError> {
        let found = RoaringBitmap::deserialize_from(&bytes[..]).map_err(damaged)?;
        if found.max().is_some_and(|row| row >= rows) {
            return Err(damaged("a row is none"));
        }
        Ok(Posting::Many(found))
    };
    let known = |all: &[u32]| all.iter().all(|row| *row < rows);
    let lengths_agree = stored.integers.len() == stored.integer_rows.len()
        && stored.floats.len() == stored.float_rows.len()
        && [stored.nanos.len(), stored.time_rows.len()] == [stored.seconds.len(); 2];
    if !lengths_agree || ![&stored.integer_rows, &stored.float_rows, &stored.time_rows].iter().all(|r| known(r)) {
        return Err(damaged("values and rows do not agree"));
    }
    let mut field = Field {
        present: bitmap(&stored.present)?,
        falses: bitmap(&stored.falses)?,
        trues: bitmap(&stored.trues)?,
        integers: stored.integers.into_iter().zip(stored.integer_rows).collect(),
        floats: stored.floats.into_iter().map(Float).zip(stored.float_rows).collect(),
        ..Field::default()
    };
    let times = stored.seconds.into_iter().zip(stored.nanos.into_iter().map(|nanos| nanos as i32));
    field.times = times.zip(stored.time_rows).collect();
    for posting in stored.strings {
        let digest = posting.digest[..].try_into().map_err(|_| damaged("a string's digest is cut"))?;
        let rows = match posting.rows {
            Some(Rows::Row(row)) if row < rows => Posting::One(row),
            Some(Rows::Bitmap(bytes)) => bitmap(&bytes)?,
            _ => return Err(damaged("a row is none")),
        };
        field.strings.insert(digest, rows);
    }
    Ok((stored.name, field))
}
