//! Filters: which images a query may find, by their attributes.
//!
//! ```
//! use omma_client::{attributes, filter, query};
//!
//! let cheap = filter::less_than("price", attributes::integer(10));
//! let wanted = filter::all_of([filter::equals("colour", attributes::string("red")), cheap]);
//! assert_eq!(filter::parse("colour = 'red' and price < 10").unwrap(), wanted);
//! let query = query::filtered(query::stored("cat.jpg", 5), wanted);
//! ```
//!
//! What compares with what is said at [`Filter`].

mod lex;
mod parse;

use omma_proto::v1::filter::Condition;
use omma_proto::v1::range_condition::{Lower, Upper};
use omma_proto::v1::{
    AttributeValue, EqualsCondition, ExistsCondition, Filter, FilterList, InCondition, RangeCondition,
};

pub use parse::{GRAMMAR, ParseError, parse};

fn of(condition: Condition) -> Filter {
    Filter { condition: Some(condition) }
}

/// The attribute has this value, or is a list of strings that contains it.
pub fn equals(attribute: impl Into<String>, value: AttributeValue) -> Filter {
    of(Condition::Equals(EqualsCondition { attribute: attribute.into(), value: Some(value) }))
}

/// The attribute equals one of 1 to 256 values.
pub fn is_in(attribute: impl Into<String>, values: impl IntoIterator<Item = AttributeValue>) -> Filter {
    of(Condition::IsIn(InCondition { attribute: attribute.into(), values: values.into_iter().collect() }))
}

fn range(attribute: impl Into<String>, lower: Option<Lower>, upper: Option<Upper>) -> Filter {
    of(Condition::Range(RangeCondition { attribute: attribute.into(), lower, upper }))
}

/// The attribute is greater than a number or timestamp.
pub fn greater_than(attribute: impl Into<String>, value: AttributeValue) -> Filter {
    range(attribute, Some(Lower::GreaterThan(value)), None)
}

/// The attribute is a number or timestamp, or greater.
pub fn at_least(attribute: impl Into<String>, value: AttributeValue) -> Filter {
    range(attribute, Some(Lower::AtLeast(value)), None)
}

/// The attribute is less than a number or timestamp.
pub fn less_than(attribute: impl Into<String>, value: AttributeValue) -> Filter {
    range(attribute, None, Some(Upper::LessThan(value)))
}

/// The attribute is a number or timestamp, or less.
pub fn at_most(attribute: impl Into<String>, value: AttributeValue) -> Filter {
    range(attribute, None, Some(Upper::AtMost(value)))
}

/// The attribute is a number or timestamp from `least` to `most`, both included.
pub fn between(attribute: impl Into<String>, least: AttributeValue, most: AttributeValue) -> Filter {
    range(attribute, Some(Lower::AtLeast(least)), Some(Upper::AtMost(most)))
}

/// The image has the attribute.
pub fn exists(attribute: impl Into<String>) -> Filter {
    of(Condition::Exists(ExistsCondition { attribute: attribute.into() }))
}

/// All of the filters hold.
pub fn all_of(filters: impl IntoIterator<Item = Filter>) -> Filter {
    of(Condition::AllOf(FilterList { filters: filters.into_iter().collect() }))
}

/// At least one of the filters holds.
pub fn any_of(filters: impl IntoIterator<Item = Filter>) -> Filter {
    of(Condition::AnyOf(FilterList { filters: filters.into_iter().collect() }))
}

/// The filter does not hold.
pub fn not(filter: Filter) -> Filter {
    of(Condition::Negation(Box::new(filter)))
}
