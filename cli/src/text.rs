//! Numbers as people read them.

use std::time::Duration;

/// "1 image", "2 images".
pub(crate) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", thousands(n), if n == 1 { one } else { many })
}

/// 12345 → "12,345".
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Two or three significant digits: "0.42 ms", "31 ms", "1.2 s", "3 min 20 s".
pub(crate) fn duration(d: Duration) -> String {
    let ms = d.as_secs_f64() * 1e3;
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms if ms < 120_000.0 => format!("{:.1} s", ms / 1e3),
        _ => format!("{} min {} s", d.as_secs() / 60, d.as_secs() % 60),
    }
}

/// A duration that came over the wire; none and negative ones are zero.
pub(crate) fn proto_duration(d: Option<&prost_types::Duration>) -> Duration {
    d.and_then(|d| Duration::try_from(*d).ok()).unwrap_or_default()
}

/// Lines of text without what would move the cursor or turn the reading direction: names of files may hold anything.
pub(crate) fn printable(text: &str) -> String {
    let turns = |c| matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    text.chars().map(|c| if (c.is_control() && c != '\n') || turns(c) { '\u{fffd}' } else { c }).collect()
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_disguise_themselves() {
        assert_eq!(printable("a\u{1b}[2J\u{202e}gpj.exe\nb"), "a\u{fffd}[2J\u{fffd}gpj.exe\nb");
        assert_eq!(printable("Ωμμα 写真 👩\u{200d}🚀"), "Ωμμα 写真 👩\u{200d}🚀");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 1234567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!((count(1, "image", "images"), count(0, "image", "images")), ("1 image".into(), "0 images".into()));
        let texts = [420, 31_000, 310_000, 1_240_000, 200_000_000].map(|us| duration(Duration::from_micros(us)));
        assert_eq!(texts, ["0.42 ms", "31.0 ms", "310 ms", "1.2 s", "3 min 20 s"]);
        assert_eq!(hex(&[0, 171]), "00ab");
    }
}
