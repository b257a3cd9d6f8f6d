//! stub
#![allow(missing_docs, unused, clippy::all)]
use std::{path::PathBuf, time::Duration};
use bytes::Bytes;
use omma_common::{deadline::Deadline, error::*};
#[derive(Debug, Clone, Copy)] pub enum Device { Auto, Cpu, Cuda(u32) }
impl std::str::FromStr for Device { type Err = String; fn from_str(s: &str) -> Result<Self, String> { Ok(Device::Auto) } }
#[derive(Debug, Clone)] pub enum ModelSource { BuiltIn, Directory(PathBuf) }
#[derive(Debug, Clone)] pub struct EncoderConfig { pub model: ModelSource, pub device: Device, pub runtime_library: Option<PathBuf>, pub max_picture_bytes: usize, pub max_picture_pixels: u64, pub decode_threads: usize, pub workers: usize, pub max_batch: usize, pub queue: usize }
impl Default for EncoderConfig { fn default() -> Self { todo!() } }
#[derive(Clone)] pub struct Encoder;
#[derive(Debug, thiserror::Error)] #[error("x")] pub struct EncoderError;
impl From<EncoderError> for ApiError { fn from(_: EncoderError) -> Self { ApiError::new(Reason::Internal, "") } }
pub struct EncoderInfo { pub model: String, pub space_id: String, pub dimension: u32, pub device: String, pub runtime: String }
pub struct EncoderCounters { pub images: u64, pub batches: u64 }
pub struct Encoded { pub embedding: Vec<f32>, pub decode: Duration, pub queue: Duration, pub inference: Duration }
impl Encoder { pub fn start(c: EncoderConfig) -> Result<Encoder, EncoderError> { Ok(Encoder) }
 pub fn info(&self) -> &EncoderInfo { todo!() } pub fn counters(&self) -> EncoderCounters { todo!() }
 pub async fn encode(&self, p: Bytes, d: Deadline) -> Result<Encoded, EncoderError> { Err(EncoderError) } }
