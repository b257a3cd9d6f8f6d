//! What a filter may hold. Pure: each check names the field and what is wrong with it.

use omma_common::error::ApiError;
use omma_common::limits::{MAX_FILTER_BYTES, MAX_FILTER_CONDITIONS, MAX_FILTER_DEPTH, MAX_FILTER_VALUES};
use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::filter::Condition;
use omma_proto::v1::range_condition::{Lower, Upper};
use omma_proto::v1::{AttributeValue, Filter, RangeCondition};
use prost::Message;

use super::validate;

/// A query's filter; `field` is its path in the request.
pub(crate) fn check(field: &str, filter: &Filter) -> Result<(), ApiError> {
    let bytes = filter.encoded_len();
    if bytes > MAX_FILTER_BYTES {
        let problem = format!("is {bytes} bytes large; at most {MAX_FILTER_BYTES} are allowed");
        return Err(ApiError::field(field, problem).over("filter bytes", MAX_FILTER_BYTES).with("actual", bytes));
    }
    let mut conditions = 0;
    check_part(field, filter, 1, &mut conditions)?;
    if conditions > MAX_FILTER_CONDITIONS {
        let problem = format!("has {conditions} conditions; at most {MAX_FILTER_CONDITIONS} are allowed");
        return Err(ApiError::field(field, problem)
            .over("filter conditions", MAX_FILTER_CONDITIONS)
            .with("actual", conditions));
    }
    Ok(())
}

fn check_part(field: &str, filter: &Filter, depth: usize, conditions: &mut usize) -> Result<(), ApiError> {
    if depth > MAX_FILTER_DEPTH {
        let problem = format!("is deeper than {MAX_FILTER_DEPTH} levels");
        return Err(ApiError::field(field, problem).over("filter depth", MAX_FILTER_DEPTH));
    }
    *conditions += 1;
    match &filter.condition {
        None => Err(ApiError::field(field, "has no condition")),
        Some(Condition::Equals(c)) => {
            let field = format!("{field}.equals");
            attribute(&field, &c.attribute)?;
            value(&format!("{field}.value"), c.value.as_ref())
        }
        Some(Condition::IsIn(c)) => {
            let field = format!("{field}.is_in");
            attribute(&field, &c.attribute)?;
            validate::count(&format!("{field}.values"), c.values.len(), "filter values", MAX_FILTER_VALUES)?;
            c.values.iter().enumerate().try_for_each(|(i, v)| value(&format!("{field}.values[{i}]"), Some(v)))
        }
        Some(Condition::Range(c)) => range(&format!("{field}.range"), c),
        Some(Condition::Exists(c)) => attribute(&format!("{field}.exists"), &c.attribute),
        Some(Condition::AllOf(list)) => check_list(&format!("{field}.all_of"), &list.filters, depth, conditions),
        Some(Condition::AnyOf(list)) => check_list(&format!("{field}.any_of"), &list.filters, depth, conditions),
        Some(Condition::Negation(part)) => check_part(&format!("{field}.negation"), part, depth + 1, conditions),
    }
}

fn check_list(field: &str, filters: &[Filter], depth: usize, conditions: &mut usize) -> Result<(), ApiError> {
    validate::count(&format!("{field}.filters"), filters.len(), "filter conditions", MAX_FILTER_CONDITIONS)?;
    let mut parts = filters.iter().enumerate();
    parts.try_for_each(|(i, part)| check_part(&format!("{field}.filters[{i}]"), part, depth + 1, conditions))
}

fn attribute(field: &str, name: &str) -> Result<(), ApiError> {
    validate::attribute_name(name).map_err(|problem| ApiError::field(format!("{field}.attribute"), problem))
}

fn value(field: &str, value: Option<&AttributeValue>) -> Result<(), ApiError> {
    let value = value.ok_or_else(|| ApiError::field(field, "must be set"))?;
    if let Some(Kind::StringListValue(_)) = &value.kind {
        return Err(ApiError::field(field, "is a list of strings; compare with its strings one by one"));
    }
    validate::attribute(value).map_err(|problem| ApiError::field(field, problem))
}

fn range(field: &str, range: &RangeCondition) -> Result<(), ApiError> {
    attribute(field, &range.attribute)?;
    let lower = range.lower.as_ref().map(|lower| match lower {
        Lower::GreaterThan(value) => ("greater_than", value),
        Lower::AtLeast(value) => ("at_least", value),
    });
    let upper = range.upper.as_ref().map(|upper| match upper {
        Upper::LessThan(value) => ("less_than", value),
        Upper::AtMost(value) => ("at_most", value),
    });
    if lower.is_none() && upper.is_none() {
        return Err(ApiError::field(field, "has neither a lower nor an upper bound"));
    }
    let mut times = Vec::new();
    for (name, bound) in lower.into_iter().chain(upper) {
        let field = format!("{field}.{name}");
        value(&field, Some(bound))?;
        times.push(match &bound.kind {
            Some(Kind::TimestampValue(_)) => true,
            Some(Kind::IntegerValue(_) | Kind::FloatValue(_)) => false,
            _ => return Err(ApiError::field(field, "must be an integer, a float or a timestamp")),
        });
    }
    match times[..] {
        [lower, upper] if lower != upper => {
            Err(ApiError::field(field, "has a number and a timestamp as bounds, which do not compare"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::v1::{EqualsCondition, ExistsCondition, FilterList, InCondition, StringList};

    fn of(condition: Condition) -> Filter {
        Filter { condition: Some(condition) }
    }

    fn exists(name: &str) -> Filter {
        of(Condition::Exists(ExistsCondition { attribute: name.into() }))
    }

    fn kind(kind: Kind) -> AttributeValue {
        AttributeValue { kind: Some(kind) }
    }

    fn time(seconds: i64) -> AttributeValue {
        kind(Kind::TimestampValue(prost_types::Timestamp { seconds, nanos: 0 }))
    }

    fn equals(value: Option<AttributeValue>) -> Filter {
        of(Condition::Equals(EqualsCondition { attribute: "a".into(), value }))
    }

    fn is_in(count: usize) -> Filter {
        let values = (0..count).map(|i| kind(Kind::IntegerValue(i as i64))).collect();
        of(Condition::IsIn(InCondition { attribute: "a".into(), values }))
    }

    fn range(lower: Option<AttributeValue>, upper: Option<AttributeValue>) -> Filter {
        of(Condition::Range(RangeCondition {
            attribute: "a".into(),
            lower: lower.map(Lower::AtLeast),
            upper: upper.map(Upper::LessThan),
        }))
    }

    fn all_of(filters: Vec<Filter>) -> Filter {
        of(Condition::AllOf(FilterList { filters }))
    }

    fn nested(levels: usize) -> Filter {
        (1..levels).fold(exists("a"), |inner, _| of(Condition::Negation(Box::new(inner))))
    }

    #[test]
    fn what_is_within_the_bounds_passes() {
        let (int, float) = (Some(kind(Kind::IntegerValue(1))), Some(kind(Kind::FloatValue(2.5))));
        for good in [
            exists("a"),
            equals(Some(kind(Kind::StringValue(String::new())))),
            is_in(MAX_FILTER_VALUES),
            range(int.clone(), float),
            range(Some(time(1)), Some(time(0))),
            range(None, int),
            nested(MAX_FILTER_DEPTH),
            all_of(vec![exists("a"); MAX_FILTER_CONDITIONS - 1]),
        ] {
            check("query.filter", &good).unwrap();
        }
    }

    #[test]
    fn problems_are_told_with_their_places() {
        let int = || Some(kind(Kind::IntegerValue(1)));
        let list = Some(kind(Kind::StringListValue(StringList::default())));
        for (bad, field) in [
            (Filter::default(), ""),
            (exists(""), ".exists.attribute"),
            (equals(None), ".equals.value"),
            (equals(Some(AttributeValue::default())), ".equals.value"),
            (equals(list), ".equals.value"),
            (equals(Some(kind(Kind::FloatValue(f64::NAN)))), ".equals.value"),
            (is_in(0), ".is_in.values"),
            (is_in(MAX_FILTER_VALUES + 1), ".is_in.values"),
            (range(None, None), ".range"),
            (range(int(), Some(time(1))), ".range"),
            (range(Some(kind(Kind::BoolValue(true))), None), ".range.at_least"),
            (range(None, Some(kind(Kind::StringValue("x".into())))), ".range.less_than"),
            (all_of(vec![]), ".all_of.filters"),
            (all_of(vec![exists("a"), exists("\n")]), ".all_of.filters[1].exists.attribute"),
            (nested(MAX_FILTER_DEPTH + 1), &".negation".repeat(MAX_FILTER_DEPTH)),
            (all_of(vec![exists("a"); MAX_FILTER_CONDITIONS]), ""),
            (equals(Some(kind(Kind::StringValue("x".repeat(MAX_FILTER_BYTES))))), ""),
        ] {
            let error = check("query.filter", &bad).unwrap_err();
            assert_eq!(error.fields[0].0, format!("query.filter{field}"), "{error}");
        }
    }
}
