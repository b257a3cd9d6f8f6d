//! The hostile set: every file gets a correct answer or a typed error, in time, and never ends the process.
//!
//! The files are not part of the repository. They are looked for in `$OMMA_TEST_DATA`, else in `../shared/data` beside
//! the repository; without them the test says that it was skipped.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::decode::{PictureLimits, decode};
use super::error::PictureError;

const LIMIT: Duration = Duration::from_secs(1);
const LIMITS: PictureLimits = PictureLimits {
    bytes: omma_common::limits::DEFAULT_MAX_PICTURE_BYTES,
    pixels: omma_common::limits::DEFAULT_MAX_PICTURE_PIXELS,
};

fn data() -> PathBuf {
    std::env::var_os("OMMA_TEST_DATA")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from)
}

/// One line of a CSV file; quotes may hold commas.
fn fields(line: &str) -> Vec<String> {
    let (mut all, mut quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => all.push(String::new()),
            c => all.last_mut().unwrap().push(c),
        }
    }
    all
}

/// The first try may be slow because the machine is busy; a picture that is slow by itself is slow each time.
fn timed(bytes: &[u8]) -> (Result<image::RgbImage, PictureError>, Duration) {
    let once = || {
        let start = Instant::now();
        (decode(bytes, &LIMITS, &mut |_| true), start.elapsed())
    };
    let first = once();
    if first.1 < LIMIT { first } else { once() }
}

/// The most memory that this process ever had, where the system tells.
fn peak_mebibytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib / 1024)
}

#[test]
fn every_file_gets_an_answer() {
    let folder = data().join("malformed");
    let Ok(manifest) = std::fs::read_to_string(folder.join("manifest.csv")) else {
        eprintln!("skipped: no {} (set OMMA_TEST_DATA to the folder that holds malformed/)", folder.display());
        return;
    };
    let mut counts = BTreeMap::<(String, &str), usize>::new();
    let (mut failures, mut slowest) = (Vec::new(), (Duration::ZERO, String::new()));
    for line in manifest.lines().skip(1) {
        let row = fields(line);
        let (path, note, pillow) = (&row[0], &row[4], &row[5]);
        let bytes = std::fs::read(folder.join(path)).unwrap();
        let (result, took) = timed(&bytes);
        let verdict = match &result {
            Ok(_) => "decoded",
            Err(PictureError::Damaged { .. } | PictureError::Empty) => "damaged",
            Err(PictureError::UnknownFormat) => "unknown",
            Err(PictureError::Unsupported { .. }) => "unsupported",
            Err(_) => "too large",
        };
        *counts.entry((format!("Pillow: {pillow}"), verdict)).or_default() += 1;
        if pillow == "decodes" && result.is_err() || pillow != "decodes" && result.is_ok() {
            println!("{path} ({note}): Pillow {pillow}, here {:?}", result.as_ref().map(|i| i.dimensions()));
        }
        if took > slowest.0 {
            slowest = (took, path.clone());
        }
        let right = match &result {
            Ok(_) => pillow != "bomb",
            // The one valid file of a format that is not supported.
            Err(error) => !note.starts_with("VALID") || *error == PictureError::Unsupported { what: "AVIF".into() },
        };
        if !right || took >= LIMIT {
            failures.push(format!("{path} ({note}): {:?} in {took:?}", result.as_ref().map(|i| i.dimensions())));
        }
    }
    println!("{counts:#?}\nslowest: {slowest:?}, peak memory of the process: {:?} MiB", peak_mebibytes());
    assert!(counts.values().sum::<usize>() > 400, "{counts:?}");
    assert!(failures.is_empty(), "{failures:#?}");
    // What one picture may need, and as much again for the tests that run beside this one.
    assert!(peak_mebibytes().is_none_or(|peak| peak < 1024), "{:?} MiB", peak_mebibytes());
}
