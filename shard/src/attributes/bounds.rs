//! What compares with what, and how: the order of values, and places in a range.

use std::cmp::Ordering;

use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::range_condition::{Lower, Upper};
use omma_proto::v1::{AttributeValue, RangeCondition};

/// Seconds and nanoseconds since 1970.
pub(super) type Time = (i64, i32);

/// A finite float in its order; 0 and -0 are one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Float(pub(super) f64);

impl Eq for Float {}

impl PartialOrd for Float {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Float {
    fn cmp(&self, other: &Self) -> Ordering {
        // Adding 0 makes -0 a 0.
        (self.0 + 0.0).total_cmp(&(other.0 + 0.0))
    }
}

/// A value that has an order.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scalar {
    Integer(i64),
    Float(Float),
    Time(Time),
}

impl Scalar {
    /// `None` for what has no order.
    pub(super) fn of(value: &AttributeValue) -> Option<Self> {
        match &value.kind {
            Some(Kind::IntegerValue(n)) => Some(Self::Integer(*n)),
            Some(Kind::FloatValue(x)) => Some(Self::Float(Float(*x))),
            Some(Kind::TimestampValue(t)) => Some(Self::Time((t.seconds, t.nanos))),
            _ => None,
        }
    }

    /// `None` if they do not compare.
    pub(super) fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => Some(a.cmp(&b)),
            (Self::Float(a), Self::Float(b)) => Some(a.cmp(&b)),
            (Self::Time(a), Self::Time(b)) => Some(a.cmp(&b)),
            (Self::Integer(n), Self::Float(x)) => Some(integer_with_float(n, x)),
            (Self::Float(x), Self::Integer(n)) => Some(integer_with_float(n, x).reverse()),
            _ => None,
        }
    }
}

/// Exactly: neither is rounded to the other's type.
fn integer_with_float(n: i64, Float(x): Float) -> Ordering {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if x >= BEYOND {
        return Ordering::Less;
    }
    if x < -BEYOND {
        return Ordering::Greater;
    }
    let whole = x.floor();
    let fraction = if x > whole { Ordering::Less } else { Ordering::Equal };
    n.cmp(&(whole as i64)).then(fraction)
}

/// A range of values, open where there is no bound.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The bound, and where its equal lies: inside (`Equal`) or below (`Less`).
    lower: Option<(Scalar, Ordering)>,
    /// Likewise: inside, or above (`Greater`).
    upper: Option<(Scalar, Ordering)>,
}

impl Bounds {
    /// `None` if a bound has no order, or there is none.
    pub(super) fn of(range: &RangeCondition) -> Option<Self> {
        let lower = match &range.lower {
            None => None,
            Some(Lower::GreaterThan(value)) => Some((Scalar::of(value)?, Ordering::Less)),
            Some(Lower::AtLeast(value)) => Some((Scalar::of(value)?, Ordering::Equal)),
        };
        let upper = match &range.upper {
            None => None,
            Some(Upper::LessThan(value)) => Some((Scalar::of(value)?, Ordering::Greater)),
            Some(Upper::AtMost(value)) => Some((Scalar::of(value)?, Ordering::Equal)),
        };
        (lower.is_some() || upper.is_some()).then_some(Self { lower, upper })
    }

    /// Just this value.
    pub(super) fn equal_to(value: Scalar) -> Self {
        Self { lower: Some((value, Ordering::Equal)), upper: Some((value, Ordering::Equal)) }
    }

    /// Whether a value lies below, in or above the range; `None` if it does not compare with it.
    pub(super) fn place(&self, value: Scalar) -> Option<Ordering> {
        let place = |bound: Option<(Scalar, Ordering)>, outside: Ordering| match bound {
            None => Some(Ordering::Equal),
            Some((bound, equal)) => Some(match value.compare(bound)? {
                Ordering::Equal => equal,
                side if side == outside => outside,
                _ => Ordering::Equal,
            }),
        };
        let (lower, upper) = (place(self.lower, Ordering::Less)?, place(self.upper, Ordering::Greater)?);
        Some(lower.then(upper))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_floats_compare_exactly() {
        let big = 1i64 << 53;
        for (n, x, want) in [
            (3, 3.0, Ordering::Equal),
            (3, 3.5, Ordering::Less),
            (-3, -3.5, Ordering::Greater),
            (0, -0.0, Ordering::Equal),
            (big + 1, big as f64, Ordering::Greater),
            (big, big as f64, Ordering::Equal),
            (i64::MAX, 9_223_372_036_854_775_808.0, Ordering::Less),
            (i64::MIN, -9_223_372_036_854_775_808.0, Ordering::Equal),
            (i64::MIN, -9_223_372_036_854_777_856.0, Ordering::Greater),
            (0, f64::MIN_POSITIVE, Ordering::Less),
        ] {
            let (a, b) = (Scalar::Integer(n), Scalar::Float(Float(x)));
            assert_eq!((a.compare(b), b.compare(a)), (Some(want), Some(want.reverse())), "{n} {x}");
        }
        assert_eq!(Scalar::Integer(1).compare(Scalar::Time((1, 0))), None);
        assert_eq!(Float(0.0).cmp(&Float(-0.0)), Ordering::Equal);
    }
}
