//! One attribute: which rows have what as its value.

use std::cmp::Ordering;
use std::collections::HashMap;

use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::{AttributeValue, RangeCondition};
use roaring::RoaringBitmap;

use super::bounds::{Bounds, Float, Scalar, Time};
use super::ordered::Ordered;
use super::posting::Posting;

/// Stands for a string: long ones would be kept twice, and equality is all that is asked of them.
pub(super) type StringDigest = [u8; 16];

pub(super) fn digest(text: &str) -> StringDigest {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    short
}

/// All values of one attribute.
#[derive(Default)]
pub(super) struct Field {
    /// Has the attribute, of whatever type.
    pub(super) present: Posting,
    pub(super) falses: Posting,
    pub(super) trues: Posting,
    /// Alone or in a list.
    pub(super) strings: HashMap<StringDigest, Posting>,
    pub(super) integers: Ordered<i64>,
    pub(super) floats: Ordered<Float>,
    pub(super) times: Ordered<Time>,
}

impl Field {
    pub(super) fn insert(&mut self, row: u32, value: &AttributeValue) {
        self.present.insert(row);
        match &value.kind {
            None => {}
            Some(Kind::StringValue(text)) => self.strings.entry(digest(text)).or_default().insert(row),
            Some(Kind::StringListValue(list)) => {
                list.values.iter().for_each(|text| self.strings.entry(digest(text)).or_default().insert(row));
            }
            Some(Kind::BoolValue(false)) => self.falses.insert(row),
            Some(Kind::BoolValue(true)) => self.trues.insert(row),
            Some(Kind::IntegerValue(n)) => self.integers.insert(*n, row),
            Some(Kind::FloatValue(x)) => self.floats.insert(Float(*x), row),
            Some(Kind::TimestampValue(t)) => self.times.insert((t.seconds, t.nanos), row),
        }
    }

    pub(super) fn present(&self) -> RoaringBitmap {
        self.present.to_rows()
    }

    /// `rows` is more than any row, here and below.
    pub(super) fn equal_to(&self, value: &AttributeValue, rows: usize) -> RoaringBitmap {
        match &value.kind {
            Some(Kind::StringValue(text)) => self.strings.get(&digest(text)).map(Posting::to_rows).unwrap_or_default(),
            Some(Kind::BoolValue(false)) => self.falses.to_rows(),
            Some(Kind::BoolValue(true)) => self.trues.to_rows(),
            _ => Scalar::of(value).map(|s| self.between(&Bounds::equal_to(s), rows)).unwrap_or_default(),
        }
    }

    pub(super) fn within(&self, range: &RangeCondition, rows: usize) -> RoaringBitmap {
        Bounds::of(range).map(|bounds| self.between(&bounds, rows)).unwrap_or_default()
    }

    fn between(&self, bounds: &Bounds, rows: usize) -> RoaringBitmap {
        // What does not compare lies outside.
        let place = |value: Scalar| bounds.place(value).unwrap_or(Ordering::Greater);
        self.integers.within(rows, |n| place(Scalar::Integer(n)))
            | self.floats.within(rows, |x| place(Scalar::Float(x)))
            | self.times.within(rows, |t| place(Scalar::Time(t)))
    }

    /// As [`super::posting::renumbered`]; `false` if nothing is left.
    pub(super) fn renumber(&mut self, new_rows: &[Option<u32>]) -> bool {
        self.falses.renumber(new_rows);
        self.trues.renumber(new_rows);
        self.strings.retain(|_, rows| rows.renumber(new_rows));
        self.integers.renumber(new_rows);
        self.floats.renumber(new_rows);
        self.times.renumber(new_rows);
        self.present.renumber(new_rows)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let per_string = size_of::<(StringDigest, Posting)>() + 1;
        let strings =
            self.strings.capacity() * per_string + self.strings.values().map(Posting::memory_bytes).sum::<usize>();
        let sets = [&self.present, &self.falses, &self.trues].map(Posting::memory_bytes).iter().sum::<usize>();
        size_of::<Self>()
            + sets
            + strings
            + self.integers.memory_bytes()
            + self.floats.memory_bytes()
            + self.times.memory_bytes()
    }
}
