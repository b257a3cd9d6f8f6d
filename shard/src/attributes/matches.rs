//! Whether one record's attributes satisfy a filter: the meaning of filters, in a page.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::filter::Condition;
use omma_proto::v1::{AttributeValue, Filter};

use super::bounds::{Bounds, Scalar};

/// Whether `attributes` satisfy `filter`; one without a condition is satisfied by all.
pub(crate) fn matches(filter: &Filter, attributes: &BTreeMap<String, AttributeValue>) -> bool {
    match &filter.condition {
        None => true,
        Some(Condition::Equals(c)) => {
            attributes.get(&c.attribute).zip(c.value.as_ref()).is_some_and(|(stored, wanted)| equal(stored, wanted))
        }
        Some(Condition::IsIn(c)) => {
            attributes.get(&c.attribute).is_some_and(|stored| c.values.iter().any(|wanted| equal(stored, wanted)))
        }
        Some(Condition::Range(c)) => {
            let value = attributes.get(&c.attribute).and_then(Scalar::of);
            value.zip(Bounds::of(c)).is_some_and(|(value, bounds)| bounds.place(value) == Some(Ordering::Equal))
        }
        Some(Condition::Exists(c)) => attributes.contains_key(&c.attribute),
        Some(Condition::AllOf(list)) => list.filters.iter().all(|part| matches(part, attributes)),
        Some(Condition::AnyOf(list)) => list.filters.iter().any(|part| matches(part, attributes)),
        Some(Condition::Negation(part)) => !matches(part, attributes),
    }
}

fn equal(stored: &AttributeValue, wanted: &AttributeValue) -> bool {
    match (&stored.kind, &wanted.kind) {
        (Some(Kind::StringValue(a)), Some(Kind::StringValue(b))) => a == b,
        (Some(Kind::StringListValue(list)), Some(Kind::StringValue(b))) => list.values.contains(b),
        (Some(Kind::BoolValue(a)), Some(Kind::BoolValue(b))) => a == b,
        _ => Scalar::of(stored).zip(Scalar::of(wanted)).is_some_and(|(a, b)| a.compare(b) == Some(Ordering::Equal)),
    }
}
