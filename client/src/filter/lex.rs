//! The words of a filter's text.

use omma_proto::v1::AttributeValue;

use super::parse::Problem;
use crate::attributes;

/// A word, number, text or sign.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A name, or one of the filter's own words.
    Word(String),
    /// A name in back-quotes: never one of the filter's own words.
    Name(String),
    /// A text, number or time.
    Value(AttributeValue),
    /// `=`, `!=`, `<`, `<=`, `>`, `>=`, `(`, `)`, `,`.
    Sign(&'static str),
    /// There is no more.
    End,
}

/// Longer ones first.
const SIGNS: [(&str, &str); 11] = [
    ("!=", "!="),
    ("<>", "!="),
    ("<=", "<="),
    (">=", ">="),
    ("==", "="),
    ("=", "="),
    ("<", "<"),
    (">", ">"),
    ("(", "("),
    (")", ")"),
    (",", ","),
];

/// All tokens with the places (in bytes) where they begin, the end among them.
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, Problem> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (token, len) = match first {
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '"' | '\'' => quoted(rest, first, at).map(|(text, len)| (Token::Value(attributes::string(text)), len))?,
            '`' => quoted(rest, first, at).map(|(name, len)| (Token::Name(name), len))?,
            c if c.is_ascii_digit() || c == '-' || c == '+' || c == '.' => number_or_time(rest, at)?,
            c if c.is_alphabetic() || c == '_' => {
                let len = rest.find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '-' | '.' | ':'));
                let word = &rest[..len.unwrap_or(rest.len())];
                (Token::Word(word.to_owned()), word.len())
            }
            c => match SIGNS.iter().find(|(sign, _)| rest.starts_with(sign)) {
                Some((sign, meaning)) => (Token::Sign(meaning), sign.len()),
                None => return Err(Problem::at(at, format!("{c:?} means nothing here"))),
            },
        };
        found.push((at, token));
        at += len;
    }
    found.push((text.len(), Token::End));
    Ok(found)
}

/// What stands between quotes; a backslash takes the next character as it is.
fn quoted(rest: &str, quote: char, at: usize) -> Result<(String, usize), Problem> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((place, c)) = chars.next() {
        match c {
            c if c == quote => return Ok((text, place + c.len_utf8())),
            '\\' => match chars.next() {
                Some((_, escaped)) => text.push(escaped),
                None => break,
            },
            c => text.push(c),
        }
    }
    Err(Problem::at(at, format!("the {quote} that begins here never ends")))
}

fn number_or_time(rest: &str, at: usize) -> Result<(Token, usize), Problem> {
    let len = rest.find(|c: char| c.is_whitespace() || "(),=<>!\"'`".contains(c)).unwrap_or(rest.len());
    let word = &rest[..len];
    let value = if let Ok(n) = word.parse::<i64>() {
        attributes::integer(n)
    } else if let Some(x) = word.parse::<f64>().ok().filter(|x| x.is_finite()) {
        attributes::float(x)
    } else if let Some(moment) = attributes::parse_timestamp(word) {
        attributes::timestamp(moment)
    } else {
        let hint = "write 3, -2.5, 1e9, 2024-05-01 or 2024-05-01T12:00:00Z";
        return Err(Problem::at(at, format!("{word:?} is neither a number nor a time: {hint}")));
    };
    Ok((Token::Value(value), len))
}
