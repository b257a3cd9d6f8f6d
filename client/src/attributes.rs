//! Values of attributes.

use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::{AttributeValue, StringList};
use prost_types::Timestamp;

fn value(kind: Kind) -> AttributeValue {
    AttributeValue { kind: Some(kind) }
}

/// A string.
pub fn string(text: impl Into<String>) -> AttributeValue {
    value(Kind::StringValue(text.into()))
}

/// An integer.
pub fn integer(n: i64) -> AttributeValue {
    value(Kind::IntegerValue(n))
}

/// A float; it must be finite.
pub fn float(x: f64) -> AttributeValue {
    value(Kind::FloatValue(x))
}

/// A bool.
pub fn boolean(b: bool) -> AttributeValue {
    value(Kind::BoolValue(b))
}

/// A moment, between the years 1 and 9999. Parse one with `"2024-05-01T12:00:00Z".parse()`.
pub fn timestamp(moment: Timestamp) -> AttributeValue {
    value(Kind::TimestampValue(moment))
}

/// A list of strings.
pub fn strings<S: Into<String>>(texts: impl IntoIterator<Item = S>) -> AttributeValue {
    value(Kind::StringListValue(StringList { values: texts.into_iter().map(Into::into).collect() }))
}

/// The moment that an RFC 3339 text names: a date, which is its first moment in UTC, or a date with a time and an
/// offset from UTC.
pub fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let shape = |text: &str| {
        let bytes = text.as_bytes();
        bytes.len() >= 10 && bytes[4] == b'-' && bytes[7] == b'-' && bytes[..4].iter().all(u8::is_ascii_digit)
    };
    let complete = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        _ => text.to_owned(),
    };
    let zoned = complete.ends_with(['Z', 'z']) || complete.get(19..).is_some_and(|rest| rest.contains(['+', '-']));
    let valid = shape(&complete) && zoned && matches!(complete.as_bytes().get(10), Some(b'T' | b't' | b' '));
    complete.parse().ok().filter(|_| valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_dates_or_moments_with_an_offset() {
        let seconds = |text| parse_timestamp(text).map(|t| (t.seconds, t.nanos));
        assert_eq!(seconds("1970-01-02"), Some((86_400, 0)));
        assert_eq!(seconds("1970-01-01T00:00:01Z"), Some((1, 0)));
        assert_eq!(seconds("1970-01-01T01:00:00.5+01:00"), Some((0, 500_000_000)));
        assert_eq!(seconds("1969-12-31T23:59:59Z"), Some((-1, 0)));
        for bad in ["", "1970", "1970-13-01", "1970-01-01T00:00:00", "01-01-1970", "tomorrow", "1970-01-01x00:00:00Z"] {
            assert_eq!(seconds(bad), None, "{bad:?}");
        }
    }
}
