//! What a test measured or had to leave out, for people to read.

use std::io::Write;

/// Names a file that notes are added to: the test runner shows the output of failed tests only.
const VARIABLE: &str = "OMMA_TEST_NOTES";

/// Prints a note, and adds it to the file that `OMMA_TEST_NOTES` names.
pub fn note(text: &str) {
    println!("{text}");
    if let Some(path) = std::env::var_os(VARIABLE) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let written = file.and_then(|mut f| writeln!(f, "{text}"));
        if let Err(e) = written {
            eprintln!("cannot write to the file in {VARIABLE}: {e}");
        }
    }
}

/// As `println!`, through [`note`].
#[macro_export]
macro_rules! note {
    ($($arg:tt)*) => { $crate::notes::note(&format!($($arg)*)) };
}
