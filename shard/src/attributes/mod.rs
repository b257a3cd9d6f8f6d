//! The attribute index of one collection in one replica: which records satisfy a filter.
//!
//! Records are rows, numbered as they come. For each attribute a [`field::Field`] has bitmaps of the rows that hold a
//! string or a bool, and the numbers and timestamps in order with their rows. Nothing is ever taken out of those: a
//! removed row is only no longer among the living, which every answer is cut down to, and once more rows are dead than
//! alive all are numbered anew. Knows keys and attributes only: nothing of stores, vectors or Raft.
//!
//! [`matches()`] says the same of a single record; the index must agree with it.

mod bounds;
mod field;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod keys;
mod matches;
mod ordered;
mod posting;
mod selection;
mod stored;

#[cfg(test)]
mod measure;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, HashMap};

use omma_proto::v1::filter::Condition;
use omma_proto::v1::{AttributeValue, Filter};
use roaring::RoaringBitmap;

use field::Field;
use keys::Keys;

pub(crate) use matches::matches;
pub(crate) use selection::Selection;
pub(crate) use stored::export;

/// Fewer dead rows than this are not worth numbering anew.
const RENUMBER_AT_LEAST: usize = 4096;

/// The index. Keys should come in ascending order, as the log makes them: others are right, too, but slow.
#[derive(Default)]
pub(crate) struct AttributeIndex {
    keys: Keys,
    living: RoaringBitmap,
    fields: HashMap<String, Field>,
    /// Changes whenever rows get other numbers.
    numbering: u64,
}

impl AttributeIndex {
    /// Takes a record in. One whose key is known stays as it is.
    pub(crate) fn insert(&mut self, key: u64, attributes: &BTreeMap<String, AttributeValue>) {
        if self.keys.row_of(key).is_some() {
            return;
        }
        if self.keys.last().is_some_and(|last| last > key) {
            self.open_gap(key);
        } else {
            self.keys.push(key);
        }
        let Some(row) = self.keys.row_of(key) else { return };
        self.living.insert(row);
        for (name, value) in attributes {
            match self.fields.get_mut(name) {
                Some(field) => field.insert(row, value),
                None => self.fields.entry(name.clone()).or_default().insert(row, value),
            }
        }
    }

    /// Forgets a record. Unknown keys are no matter.
    pub(crate) fn remove(&mut self, key: u64) {
        let Some(row) = self.keys.row_of(key) else { return };
        self.living.remove(row);
        let (rows, living) = (self.keys.len(), self.living.len() as usize);
        if rows - living >= RENUMBER_AT_LEAST.max(living) {
            self.forget_the_dead();
        }
    }

    /// The greatest key that was taken in, if any.
    pub(crate) fn last_key(&self) -> Option<u64> {
        self.keys.last()
    }

    /// The living records that satisfy a filter, as of now.
    pub(crate) fn select(&self, filter: &Filter) -> Selection {
        Selection { rows: self.rows(filter) & &self.living, keys: self.keys.clone(), numbering: self.numbering }
    }

    /// Whether a record of the selection was removed after it was made.
    pub(crate) fn has_lost_of(&self, selection: &Selection) -> bool {
        self.numbering != selection.numbering || !selection.rows.is_subset(&self.living)
    }

    /// Memory held, in bytes; about.
    pub(crate) fn memory_bytes(&self) -> usize {
        let fields = self.fields.iter().map(|(name, field)| name.capacity() + field.memory_bytes());
        self.keys.memory_bytes() + self.living.serialized_size() + fields.sum::<usize>()
    }

    /// What satisfies the filter, dead rows among it.
    fn rows(&self, filter: &Filter) -> RoaringBitmap {
        let field = |name: &str| self.fields.get(name);
        let count = self.keys.len();
        match &filter.condition {
            None => self.living.clone(),
            Some(Condition::Equals(c)) => {
                let equal = |f: &Field| c.value.as_ref().map(|value| f.equal_to(value, count));
                field(&c.attribute).and_then(equal).unwrap_or_default()
            }
            Some(Condition::IsIn(c)) => {
                let any = |f: &Field| c.values.iter().fold(RoaringBitmap::new(), |all, v| all | f.equal_to(v, count));
                field(&c.attribute).map(any).unwrap_or_default()
            }
            Some(Condition::Range(c)) => field(&c.attribute).map(|f| f.within(c, count)).unwrap_or_default(),
            Some(Condition::Exists(c)) => field(&c.attribute).map(Field::present).unwrap_or_default(),
            Some(Condition::AllOf(list)) => {
                let mut all = self.living.clone();
                for part in &list.filters {
                    if all.is_empty() {
                        break;
                    }
                    all &= self.rows(part);
                }
                all
            }
            Some(Condition::AnyOf(list)) => {
                list.filters.iter().fold(RoaringBitmap::new(), |any, part| any | self.rows(part))
            }
            Some(Condition::Negation(part)) => &self.living - self.rows(part),
        }
    }

    fn forget_the_dead(&mut self) {
        let mut new_rows = vec![None; self.keys.len()];
        (0..).zip(&self.living).for_each(|(new, old)| new_rows[old as usize] = Some(new));
        let keys: Vec<u64> = self.living.iter().map(|row| self.keys.key(row)).collect();
        self.renumber(keys, &new_rows);
    }

    /// Makes room for a key among greater ones.
    fn open_gap(&mut self, key: u64) {
        let mut keys = self.keys.all();
        let at = keys.partition_point(|&k| k < key);
        let new_rows: Vec<_> = (0..keys.len()).map(|row| Some((row + usize::from(row >= at)) as u32)).collect();
        keys.insert(at, key);
        self.renumber(keys, &new_rows);
    }

    /// Gives each row the number at its place, in the same order; those without one are forgotten.
    fn renumber(&mut self, keys: Vec<u64>, new_rows: &[Option<u32>]) {
        self.keys = keys.into_iter().collect();
        self.living = posting::renumbered(&self.living, new_rows);
        self.fields.retain(|_, field| field.renumber(new_rows));
        self.numbering += 1;
    }
}
