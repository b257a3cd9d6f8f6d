//! Standard output: for people, or as JSON for programs.

use std::fmt::Display;
use std::io::Write;

use serde_json::Value;

use crate::exit::CliError;
use crate::text::printable;

/// Where results go. A closed pipe is an error to pass on, never a panic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// The result of a command, in one of its two forms.
    pub(crate) fn result(self, json: impl FnOnce() -> Value, human: impl FnOnce() -> String) -> Result<(), CliError> {
        let text = if self.json { format!("{:#}", json()) } else { printable(&human()) };
        print(&text)
    }

    /// Something said on the way: on standard output for people, beside it for programs.
    pub(crate) fn say(self, text: impl Display) -> Result<(), CliError> {
        if self.json {
            note(text);
            return Ok(());
        }
        print(&printable(&text.to_string()))
    }
}

fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
    write!(out, "{text}{end}").and_then(|()| out.flush()).map_err(CliError::output)
}

/// Something said beside the result.
pub(crate) fn note(text: impl Display) {
    // Nobody is left to tell if this fails.
    let _ = writeln!(std::io::stderr(), "{}", printable(&text.to_string()));
}
