//! Writes the embeddings of pictures, so that other programs can compare them with theirs.
//!
//! `embed OUT.npy [--model DIR] [--list FILE | PICTURE ...]` writes the embeddings as a NumPy array of f32 (rows in the
//! order of `OUT.npy.names`, one path per line); pictures that have none are listed in `OUT.npy.errors` with the reason.
//! Says how many pictures a second that was: the rate of the bare encoder.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, stream};
use omma_common::deadline::Deadline;
use omma_shard::encoder::{Device, Encoder, EncoderConfig, Line, ModelSource};

/// Pictures in flight: enough to keep decoding and inference busy.
const IN_FLIGHT: usize = 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let out = PathBuf::from(arguments.next().ok_or("usage: embed OUT.npy [--model DIR] [--list FILE | PICTURE ...]")?);
    let library = omma_common::fetch::onnxruntime()?;
    let mut config = EncoderConfig { device: Device::Cpu, runtime_library: Some(library), ..EncoderConfig::default() };
    let mut pictures = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--list" => {
                let list = fs::read_to_string(arguments.next().ok_or("--list needs a file")?)?;
                pictures.extend(list.lines().map(str::to_owned));
            }
            "--model" => {
                config.model = ModelSource::Directory(arguments.next().ok_or("--model needs a folder")?.into())
            }
            _ => pictures.push(argument),
        }
    }
    let encoder = Encoder::start(config)?;
    eprintln!("{:?}", encoder.info());
    tokio::runtime::Runtime::new()?.block_on(embed(&encoder, pictures, &out))
}

async fn embed(encoder: &Encoder, pictures: Vec<String>, out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let (mut names, mut errors, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    let begin = Instant::now();
    let mut answers = stream::iter(pictures)
        .map(|path| async move {
            let result = match tokio::fs::read(&path).await {
                Ok(bytes) => {
                    let deadline = Deadline::after(Duration::from_secs(60));
                    encoder.encode(Bytes::from(bytes), Line::COMMON, deadline).await.map_err(|e| e.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            (path, result)
        })
        .buffered(IN_FLIGHT);
    while let Some((path, result)) = answers.next().await {
        match result {
            Ok(encoded) => {
                rows.push(encoded.embedding);
                names.push(path);
            }
            Err(error) => errors.push(format!("{path}\t{error}")),
        }
    }
    let rate = rows.len() as f64 / begin.elapsed().as_secs_f64();
    write_npy(out, &rows, encoder.info().dimension as usize)?;
    let beside = |extension: &str| PathBuf::from(format!("{}.{extension}", out.display()));
    fs::write(beside("names"), names.join("\n"))?;
    fs::write(beside("errors"), errors.join("\n"))?;
    eprintln!("{} embeddings, {} errors, {rate:.1} a second", rows.len(), errors.len());
    Ok(())
}

/// NumPy's format, version 1.0: magic, header padded to a multiple of 64 bytes, numbers.
fn write_npy(path: &Path, rows: &[Vec<f32>], dimension: usize) -> io::Result<()> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {dimension}), }}", rows.len()).into_bytes();
    header.resize((header.len() + 11).next_multiple_of(64) - 11, b' ');
    header.push(b'\n');
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&(header.len() as u16).to_le_bytes())?;
    file.write_all(&header)?;
    for number in rows.iter().flatten() {
        file.write_all(&number.to_le_bytes())?;
    }
    file.flush()
}
