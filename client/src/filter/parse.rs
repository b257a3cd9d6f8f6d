//! A filter's text, as people type it.

use omma_proto::v1::{AttributeValue, Filter};

use super::lex::{Token, tokens};
use super::{all_of, any_of, at_least, at_most, between, equals, exists, greater_than, is_in, less_than, not};
use crate::attributes;

/// What [`parse`] understands.
pub const GRAMMAR: &str = "\
filter     = part { or part }
part       = condition { and condition }
condition  = not condition | ( filter ) | exists( name ) | name = value | name != value
           | name < value | name <= value | name > value | name >= value | name between value and value
           | name [not] in ( value { , value } )
name       = letters, digits and _ - . : after a letter or _; anything else in `back-quotes`
value      = 'text' | \"text\" | 3 | -2.5 | true | false | 2024-05-01 | 2024-05-01T12:00:00Z";

/// Parentheses within each other: the server allows fewer conditions within each other than this.
const DEEPEST: usize = 32;

/// What is wrong, and where: the message shows the text with a mark below the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}\n  {text}\n  {:>width$}", "^", width = .before + 1)]
pub struct ParseError {
    problem: String,
    text: String,
    /// Characters before the place.
    before: usize,
}

/// A problem at a place (in bytes).
#[derive(Debug)]
pub(super) struct Problem {
    at: usize,
    what: String,
}

impl Problem {
    pub(super) fn at(at: usize, what: impl Into<String>) -> Self {
        Self { at, what: what.into() }
    }
}

/// Reads a filter in the [`GRAMMAR`]; its words may be in capitals.
pub fn parse(text: &str) -> Result<Filter, ParseError> {
    read(text).map_err(|problem| ParseError {
        problem: problem.what,
        before: text[..problem.at].chars().count(),
        // On one line, so that the mark stands below its place.
        text: text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
    })
}

fn read(text: &str) -> Result<Filter, Problem> {
    let mut parser = Parser { tokens: tokens(text)?, next: 0, depth: 0 };
    let filter = parser.filter()?;
    match parser.peek() {
        Token::End => Ok(filter),
        _ => Err(parser.expected("\"and\", \"or\" or the end")),
    }
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].1
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        // The end stays.
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(w) if w.eq_ignore_ascii_case(word))
    }

    fn took_word(&mut self, word: &str) -> bool {
        let there = self.is_word(word);
        if there {
            self.take();
        }
        there
    }

    fn took_sign(&mut self, sign: &str) -> bool {
        let there = matches!(self.peek(), Token::Sign(s) if *s == sign);
        if there {
            self.take();
        }
        there
    }

    fn expected(&self, what: &str) -> Problem {
        let found = match self.peek() {
            Token::Word(word) | Token::Name(word) => format!("{word:?}"),
            Token::Value(_) => "a value".to_owned(),
            Token::Sign(sign) => format!("{sign:?}"),
            Token::End => "the end".to_owned(),
        };
        Problem::at(self.tokens[self.next].0, format!("expected {what}, found {found}"))
    }

    fn sign(&mut self, sign: &str) -> Result<(), Problem> {
        if self.took_sign(sign) { Ok(()) } else { Err(self.expected(&format!("{sign:?}"))) }
    }

    fn filter(&mut self) -> Result<Filter, Problem> {
        let mut parts = vec![self.part()?];
        while self.took_word("or") {
            parts.push(self.part()?);
        }
        Ok(joined(parts, any_of))
    }

    fn part(&mut self) -> Result<Filter, Problem> {
        let mut conditions = vec![self.condition()?];
        while self.took_word("and") {
            conditions.push(self.condition()?);
        }
        Ok(joined(conditions, all_of))
    }

    fn condition(&mut self) -> Result<Filter, Problem> {
        if self.depth == DEEPEST {
            return Err(Problem::at(self.tokens[self.next].0, format!("more than {DEEPEST} levels")));
        }
        self.depth += 1;
        let found = self.condition_within();
        self.depth -= 1;
        found
    }

    fn condition_within(&mut self) -> Result<Filter, Problem> {
        if self.took_word("not") {
            return self.condition().map(not);
        }
        if self.took_sign("(") {
            let filter = self.filter()?;
            self.sign(")")?;
            return Ok(filter);
        }
        if self.is_word("exists") && matches!(self.tokens.get(self.next + 1), Some((_, Token::Sign("(")))) {
            self.take();
            self.sign("(")?;
            let name = self.name()?;
            self.sign(")")?;
            return Ok(exists(name));
        }
        let name = self.name()?;
        self.comparison(name)
    }

    fn comparison(&mut self, name: String) -> Result<Filter, Problem> {
        if self.took_word("between") {
            let least = self.value()?;
            if !self.took_word("and") {
                return Err(self.expected("\"and\" and the greater value"));
            }
            return Ok(between(name, least, self.value()?));
        }
        if self.took_word("in") {
            return Ok(is_in(name, self.values()?));
        }
        if self.is_word("not") {
            self.take();
            return match self.took_word("in") {
                true => Ok(not(is_in(name, self.values()?))),
                false => Err(self.expected("\"in\"")),
            };
        }
        let Token::Sign(sign @ ("=" | "!=" | "<" | "<=" | ">" | ">=")) = *self.peek() else {
            return Err(self.expected(&format!("a comparison of {name:?}, such as = or in")));
        };
        self.take();
        let value = self.value()?;
        Ok(match sign {
            "=" => equals(name, value),
            "!=" => not(equals(name, value)),
            "<" => less_than(name, value),
            "<=" => at_most(name, value),
            ">" => greater_than(name, value),
            _ => at_least(name, value),
        })
    }

    fn name(&mut self) -> Result<String, Problem> {
        match self.peek() {
            Token::Word(word) if !["and", "or", "not", "in"].iter().any(|w| word.eq_ignore_ascii_case(w)) => {}
            Token::Name(_) => {}
            _ => return Err(self.expected("the name of an attribute")),
        }
        match self.take() {
            Token::Word(name) | Token::Name(name) => Ok(name),
            _ => Ok(String::new()),
        }
    }

    fn value(&mut self) -> Result<AttributeValue, Problem> {
        let value = match self.peek() {
            Token::Value(value) => value.clone(),
            Token::Word(word) if word.eq_ignore_ascii_case("true") => attributes::boolean(true),
            Token::Word(word) if word.eq_ignore_ascii_case("false") => attributes::boolean(false),
            Token::Word(word) => {
                let what = format!("expected a value, found {word:?}; a text stands in quotes: '{word}'");
                return Err(Problem::at(self.tokens[self.next].0, what));
            }
            _ => return Err(self.expected("a value")),
        };
        self.take();
        Ok(value)
    }

    fn values(&mut self) -> Result<Vec<AttributeValue>, Problem> {
        self.sign("(")?;
        let mut values = vec![self.value()?];
        while self.took_sign(",") {
            values.push(self.value()?);
        }
        if self.took_sign(")") { Ok(values) } else { Err(self.expected("\",\" or \")\"")) }
    }
}

/// Without a list around a single one.
fn joined(mut parts: Vec<Filter>, join: impl Fn(Vec<Filter>) -> Filter) -> Filter {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => join(parts.into_iter().chain(last).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use attributes::{boolean, float, integer, string, timestamp};

    #[test]
    fn everything_in_the_grammar_is_understood() {
        let time = |text| timestamp(attributes::parse_timestamp(text).unwrap());
        for (text, want) in [
            ("a = 1", equals("a", integer(1))),
            ("a == -1.5", equals("a", float(-1.5))),
            ("a=1e3", equals("a", float(1e3))),
            ("a != 'x'", not(equals("a", string("x")))),
            ("a<1", less_than("a", integer(1))),
            ("a <= 1", at_most("a", integer(1))),
            ("a > 2024-05-01", greater_than("a", time("2024-05-01"))),
            ("a >= 2024-05-01T10:00:00+02:00", at_least("a", time("2024-05-01T08:00:00Z"))),
            (
                "a BETWEEN 1 AND 2 and b = true",
                all_of([between("a", integer(1), integer(2)), equals("b", boolean(true))]),
            ),
            ("a in ('x', \"y\")", is_in("a", [string("x"), string("y")])),
            ("a not in (1)", not(is_in("a", [integer(1)]))),
            ("not exists(sold)", not(exists("sold"))),
            ("exists = 'exists'", equals("exists", string("exists"))),
            ("`odd name, and` = 'it\\'s'", equals("odd name, and", string("it's"))),
            ("exif.iso:100-x = false", equals("exif.iso:100-x", boolean(false))),
            ("Größe = 1", equals("Größe", integer(1))),
            (
                "a = 1 or b = 2 and not (c = 3 or d = 4)",
                any_of([
                    equals("a", integer(1)),
                    all_of([equals("b", integer(2)), not(any_of([equals("c", integer(3)), equals("d", integer(4))]))]),
                ]),
            ),
        ] {
            assert_eq!(parse(text).as_ref(), Ok(&want), "{text}");
        }
    }

    #[test]
    fn errors_point_at_the_place() {
        for (text, at, says) in [
            ("", 0, "expected the name of an attribute, found the end"),
            ("colour = red", 9, "a text stands in quotes: 'red'"),
            ("a = ", 4, "expected a value, found the end"),
            ("a 1", 2, "expected a comparison of \"a\""),
            ("a = 1 b = 2", 6, "expected \"and\", \"or\" or the end, found \"b\""),
            ("größe = 'x", 8, "never ends"),
            ("(a = 1", 6, "expected \")\""),
            ("a in (1, )", 9, "expected a value"),
            ("a in (1 2)", 8, "expected \",\" or \")\""),
            ("a between 1 or 2", 12, "expected \"and\""),
            ("a < 12:30", 4, "neither a number nor a time"),
            ("a = 1 && b = 2", 6, "'&' means nothing here"),
            ("not", 3, "the name of an attribute"),
            ("and = 1", 0, "the name of an attribute"),
            (&"(".repeat(100), DEEPEST, "more than"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.problem.contains(says), "{text}: {error}");
            assert_eq!(error.before, at, "{text}: {error}");
        }
        let shown = parse("größe = rot").unwrap_err().to_string();
        assert!(shown.ends_with("\n  größe = rot\n          ^"), "{shown}");
    }
}
