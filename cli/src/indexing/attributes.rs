//! Attributes out of a file, by image id: CSV with a header, or JSON Lines.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use omma_client::attributes::{boolean, float, integer, parse_timestamp, string, strings, timestamp};
use omma_client::proto::AttributeValue;
use serde_json::Value;

/// Shown by `omma index --help`.
pub(crate) const FORMAT: &str = "\
Attributes from a file (--attributes):
  .csv      A header, then a line for each picture. The column \"id\" (or \"file\") has the picture's path in the folder.
  .jsonl    A JSON object on each line, with an \"id\".
  Types of CSV columns are found by looking at all their cells; those of JSON are JSON's. A name may say its type:
  \"price:float\", \"taken:timestamp\"; types are string, integer, float, bool, timestamp (2024-05-01 or
  2024-05-01T12:00:00Z) and strings (in CSV separated by ';'). Empty cells and nulls are left out.
  Pictures that the file does not name keep the attributes that they have.";

/// One image's.
pub(crate) type Attributes = BTreeMap<String, AttributeValue>;
/// By image id.
pub(crate) type Given = HashMap<String, Attributes>;

/// Between the strings of a list in a CSV cell.
const SEPARATOR: char = ';';

/// What a name may say, or a column be found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    String,
    Integer,
    Float,
    Bool,
    Timestamp,
    Strings,
}

const TYPES: [(&str, Type); 6] = [
    ("string", Type::String),
    ("integer", Type::Integer),
    ("float", Type::Float),
    ("bool", Type::Bool),
    ("timestamp", Type::Timestamp),
    ("strings", Type::Strings),
];

/// Reads a file; blocks. An error is a whole sentence that names file and line.
pub(crate) fn read(path: &Path) -> Result<Given, String> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {name}: {e}"))?;
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    let found = match extension.as_deref() {
        Some("csv") => from_csv(&text),
        Some("jsonl" | "ndjson") => from_json_lines(&text),
        _ => Err("its name must end in .csv or .jsonl".to_owned()),
    };
    found.map_err(|why| format!("{name}: {why}"))
}

/// The name without its type, and the type, if it says one.
fn split_name(name: &str) -> (&str, Option<Type>) {
    let typed = name.rsplit_once(':').and_then(|(name, last)| {
        let known = TYPES.iter().find(|(word, _)| *word == last)?;
        Some((name, Some(known.1)))
    });
    typed.unwrap_or((name, None))
}

fn from_csv(text: &str) -> Result<Given, String> {
    let mut reader =
        csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.trim_start_matches('\u{feff}').as_bytes());
    let headers = reader.headers().map_err(|e| e.to_string())?.clone();
    let is_id = |header: &str| header.eq_ignore_ascii_case("id") || header.eq_ignore_ascii_case("file");
    let id_column = headers.iter().position(is_id).ok_or("no column is called \"id\" or \"file\"")?;
    let rows = reader.records().collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    let columns: Vec<(&str, Type)> = headers
        .iter()
        .enumerate()
        .map(|(i, header)| {
            let (name, said) = split_name(header);
            (name, said.unwrap_or_else(|| type_of(rows.iter().filter_map(|row| row.get(i)))))
        })
        .collect();
    let mut given = Given::new();
    for row in &rows {
        let line = row.position().map_or(0, csv::Position::line);
        let mut attributes = Attributes::new();
        for (i, (cell, (name, kind))) in row.iter().zip(&columns).enumerate() {
            if i == id_column || cell.is_empty() {
                continue;
            }
            let value =
                from_text(cell, *kind).ok_or_else(|| format!("line {line}, {name}: {cell:?} is no {kind:?}"))?;
            attributes.insert((*name).to_owned(), value);
        }
        keep(&mut given, row.get(id_column).unwrap_or_default(), attributes, line as usize)?;
    }
    Ok(given)
}

/// The narrowest type that all cells have.
fn type_of<'a>(cells: impl Iterator<Item = &'a str> + Clone) -> Type {
    let cells = cells.filter(|cell| !cell.is_empty());
    let fits = |kind| cells.clone().all(|cell| from_text(cell, kind).is_some());
    let narrow = [Type::Integer, Type::Float, Type::Bool, Type::Timestamp];
    narrow.into_iter().find(|kind| fits(*kind)).unwrap_or(Type::String)
}

fn from_text(text: &str, kind: Type) -> Option<AttributeValue> {
    match kind {
        Type::String => Some(string(text)),
        Type::Integer => text.parse().ok().map(integer),
        Type::Float => text.parse().ok().filter(|x: &f64| x.is_finite()).map(float),
        Type::Bool if text.eq_ignore_ascii_case("true") => Some(boolean(true)),
        Type::Bool if text.eq_ignore_ascii_case("false") => Some(boolean(false)),
        Type::Bool => None,
        Type::Timestamp => parse_timestamp(text).map(timestamp),
        Type::Strings => Some(strings(text.split(SEPARATOR).map(str::trim).filter(|part| !part.is_empty()))),
    }
}

fn from_json_lines(text: &str) -> Result<Given, String> {
    let mut given = Given::new();
    for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
        let object: serde_json::Map<String, Value> =
            serde_json::from_str(text).map_err(|e| format!("line {line}: is no JSON object: {e}"))?;
        let id = object.get("id").and_then(Value::as_str).ok_or_else(|| format!("line {line}: has no \"id\""))?;
        let mut attributes = Attributes::new();
        for (name, value) in object.iter().filter(|(name, value)| *name != "id" && !value.is_null()) {
            let (name, kind) = split_name(name);
            let converted = from_json(value, kind);
            let value = converted.ok_or_else(|| match kind {
                Some(kind) => format!("line {line}, {name}: {value} is no {kind:?}"),
                None => format!("line {line}, {name}: {value} is no text, number, bool or list of texts"),
            })?;
            attributes.insert(name.to_owned(), value);
        }
        keep(&mut given, id, attributes, line)?;
    }
    Ok(given)
}

fn from_json(value: &Value, kind: Option<Type>) -> Option<AttributeValue> {
    match (value, kind) {
        (Value::String(text), kind) => from_text(text, kind.unwrap_or(Type::String)),
        (Value::Bool(b), None | Some(Type::Bool)) => Some(boolean(*b)),
        (Value::Number(n), Some(Type::Float)) => n.as_f64().map(float),
        (Value::Number(n), Some(Type::Integer)) => n.as_i64().map(integer),
        (Value::Number(n), None) if n.is_f64() => n.as_f64().map(float),
        (Value::Number(n), None) => n.as_i64().map(integer),
        (Value::Array(items), None | Some(Type::Strings)) => {
            let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            texts.map(strings)
        }
        _ => None,
    }
}

fn keep(given: &mut Given, id: &str, attributes: Attributes, line: usize) -> Result<(), String> {
    if id.is_empty() {
        return Err(format!("line {line}: the id is empty"));
    }
    match given.insert(id.to_owned(), attributes) {
        None => Ok(()),
        Some(_) => Err(format!("line {line}: {id:?} is there twice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, AttributeValue)]) -> Attributes {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn columns_have_the_types_of_their_cells() {
        let text = "\u{feff}file,colour,price,stock,sold,taken,tags:strings,code:string\n\
                    a.jpg,red,1.5,3,true,2024-05-01,\"cat; dog\",007\n\
                    \"b,1.jpg\",,2,,FALSE,2024-05-01T00:00:01Z,,8\n";
        let given = from_csv(text).unwrap();
        let time = |text| timestamp(parse_timestamp(text).unwrap());
        let a = [
            ("colour", string("red")),
            ("price", float(1.5)),
            ("stock", integer(3)),
            ("sold", boolean(true)),
            ("taken", time("2024-05-01")),
            ("tags", strings(["cat", "dog"])),
            ("code", string("007")),
        ];
        let b = [
            ("price", float(2.0)),
            ("sold", boolean(false)),
            ("taken", time("2024-05-01T00:00:01Z")),
            ("code", string("8")),
        ];
        assert_eq!(given, Given::from([("a.jpg".to_owned(), of(&a)), ("b,1.jpg".to_owned(), of(&b))]));
    }

    #[test]
    fn json_lines_have_json_types_unless_a_name_says_more() {
        let text = r#"
            {"id": "a", "s": "x", "n": 3, "x": 3.0, "b": false, "l": ["p", "q"], "none": null}
            {"id": "b", "t:timestamp": "1970-01-01T00:00:01Z", "f:float": 3, "odd:name": 1}"#;
        let given = from_json_lines(text).unwrap();
        let a = [
            ("s", string("x")),
            ("n", integer(3)),
            ("x", float(3.0)),
            ("b", boolean(false)),
            ("l", strings(["p", "q"])),
        ];
        let b = [
            ("t", timestamp(prost_types::Timestamp { seconds: 1, nanos: 0 })),
            ("f", float(3.0)),
            ("odd:name", integer(1)),
        ];
        assert_eq!(given, Given::from([("a".to_owned(), of(&a)), ("b".to_owned(), of(&b))]));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, says) in [
            ("name,price\na,1\n", "\"id\" or \"file\""),
            ("id,price:integer\na,1\nb,x\n", "line 3, price: \"x\" is no Integer"),
            ("id,price\na,1\na,2\n", "line 3: \"a\" is there twice"),
            ("id,price\n,1\n", "line 2: the id is empty"),
            ("id,price\na,1,2\n", "line: 2"),
        ] {
            let error = from_csv(text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        for (text, says) in [
            ("{}", "line 1: has no \"id\""),
            ("{\"id\": \"a\"}\n[1]", "line 2: is no JSON object"),
            ("{\"id\": \"a\", \"b\": {}}", "line 1, b:"),
            ("{\"id\": \"a\", \"b:bool\": \"maybe\"}", "line 1, b: \"maybe\" is no Bool"),
            ("{\"id\": \"a\", \"b\": 18446744073709551615}", "line 1, b:"),
        ] {
            let error = from_json_lines(text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        assert!(read(Path::new("/no/such/file.csv")).unwrap_err().contains("/no/such/file.csv"));
    }
}
