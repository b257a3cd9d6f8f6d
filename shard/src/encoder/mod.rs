//! Turns pictures into embeddings.
//!
//! `decode` (bytes to pixels) → `preprocess` (pixels to a model's input) → `session` (ONNX Runtime), run by the threads
//! of `batch`. Which numbers come out is decided by `model` and its preprocessing; their vector space is named by
//! [`EncoderInfo::space_id`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use omma_common::deadline::Deadline;
use omma_common::limits::{DEFAULT_MAX_PICTURE_BYTES, DEFAULT_MAX_PICTURE_PIXELS};
use omma_common::telemetry;
use tracing::Instrument;

mod batch;
mod budget;
mod caught;
mod chunks;
mod decode;
mod device;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod gif;
mod jpeg;
mod lines;
mod model;
mod pace;
mod preprocess;
mod preprocessor_config;
mod readout;
mod runtime;
mod session;
mod sniff;
mod watch;
mod webp;

pub(crate) use budget::for_one_picture;
pub(crate) use decode::MOST_DECODE_BYTES_PER_PIXEL;

pub use batch::{Encoded, EncoderCounters};
pub use device::{Device, InvalidDevice};
pub use error::{EncoderError, PictureError};
pub use lines::Line;
pub use model::{ModelError, ModelSource};
pub use runtime::{RuntimeError, Tried};

use batch::{Infer, Pipeline, PipelineConfig};
use decode::PictureLimits;
use model::Model;
use session::PictureSession;

/// Pictures per run on a GPU. On a CPU it is one: larger batches need more memory and save no time there.
const CUDA_BATCH: usize = 32;
/// How long a GPU's worker waits for a batch to fill.
const CUDA_GATHER: Duration = Duration::from_millis(1);

/// How an encoder is set up.
#[derive(Debug, Clone)]
pub struct EncoderConfig {
    /// The model. Default: the built-in one.
    pub model: ModelSource,
    /// Where it runs. Default: a GPU if there is one that can be used.
    pub device: Device,
    /// ONNX Runtime's shared library. Default: looked for, see [`RuntimeError::NotFound`].
    pub runtime_library: Option<PathBuf>,
    /// Largest encoded picture, in bytes.
    pub max_picture_bytes: usize,
    /// Largest picture, in pixels.
    pub max_picture_pixels: u64,
    /// Pictures of one client that are decoded at once, or on a CPU in the model; there is one thread more. 0: as many as
    /// there are cores.
    pub decode_threads: usize,
    /// Sessions that run at once, each on a thread of its own. 0: one per core on a CPU, one on a GPU.
    pub workers: usize,
    /// Most pictures of one run. 0: 1 on a CPU, 32 on a GPU.
    pub max_batch: usize,
    /// Pictures that may be waiting or worked on at once; more are refused.
    pub queue: usize,
    /// A query's picture that would wait longer than this is refused at once; where pictures have waited without a
    /// pause for so long, one that would wait a fifth of it.
    pub urgent_wait: Duration,
    /// Memory that decoding may use in all, in bytes.
    pub decode_memory: u64,
    /// Bytes of pictures that may wait to be decoded; one of the largest always may.
    pub waiting_bytes: usize,
    /// A picture that takes longer to decode is given up.
    pub decode_patience: Duration,
}

impl Default for EncoderConfig {
    fn default() -> Self {
        Self {
            model: ModelSource::BuiltIn,
            device: Device::Auto,
            runtime_library: None,
            max_picture_bytes: DEFAULT_MAX_PICTURE_BYTES,
            max_picture_pixels: DEFAULT_MAX_PICTURE_PIXELS,
            decode_threads: 0,
            workers: 0,
            max_batch: 0,
            queue: 256,
            urgent_wait: Duration::from_millis(500),
            decode_memory: 1 << 30,
            waiting_bytes: 16 * DEFAULT_MAX_PICTURE_BYTES,
            decode_patience: Duration::from_secs(10),
        }
    }
}

/// What an encoder is, for people and for the vector space check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderInfo {
    /// The model's name.
    pub model: String,
    /// The vector space: digest of model, preprocessing, way of reading the output, dimension.
    pub space_id: String,
    /// Of its embeddings.
    pub dimension: u32,
    /// In use: `cpu` or `cuda:N`.
    pub device: String,
    /// The file of the ONNX Runtime library in use.
    pub runtime: String,
}

/// A running encoder. Clones are the same encoder; its threads end when the last clone is dropped.
#[derive(Clone)]
pub struct Encoder(Arc<Inner>);

struct Inner {
    info: EncoderInfo,
    pipeline: Pipeline,
}

impl Encoder {
    /// Loads library and model, tries the model once, starts the threads. Blocks, for a second or so.
    pub fn start(config: EncoderConfig) -> Result<Self, EncoderError> {
        let model = Model::read(&config.model)?;
        let runtime = runtime::load(config.runtime_library.as_deref())?;
        let (mut first, device) = open_first(&runtime, &model, config.device)?;
        let dimension = first.probe(&model)?;
        let space_id = model.space_id(&first.readout().canonical(), dimension);
        let (on_gpu, cores) = (device != Device::Cpu, std::thread::available_parallelism().map_or(1, usize::from));
        let or = |given: usize, automatic: usize| if given == 0 { automatic } else { given };
        let max_batch = match first.one_at_a_time() {
            true => 1,
            false => or(config.max_batch, if on_gpu { CUDA_BATCH } else { 1 }),
        };
        let mut workers: Vec<Box<dyn Infer>> = vec![Box::new(first)];
        for _ in 1..or(config.workers, if on_gpu { 1 } else { cores }) {
            workers.push(Box::new(PictureSession::open(&runtime, &model, device)?));
        }
        let pipeline = PipelineConfig {
            limits: PictureLimits { bytes: config.max_picture_bytes, pixels: config.max_picture_pixels },
            preprocessing: model.preprocessing,
            dimension: dimension as usize,
            decode_threads: or(config.decode_threads, cores),
            shared_cores: !on_gpu,
            max_batch,
            gather: if on_gpu { CUDA_GATHER } else { Duration::ZERO },
            queue: config.queue,
            urgent_wait: config.urgent_wait,
            decode_memory: config.decode_memory,
            waiting_bytes: config.waiting_bytes.max(config.max_picture_bytes),
            decode_patience: config.decode_patience,
        };
        let info = EncoderInfo {
            model: model.name,
            space_id,
            dimension,
            device: device.to_string(),
            runtime: runtime.path.display().to_string(),
        };
        tracing::info!(
            model = info.model,
            space = info.space_id,
            device = info.device,
            runtime = info.runtime,
            "encoder"
        );
        Ok(Self(Arc::new(Inner { info, pipeline: Pipeline::start(pipeline, workers)? })))
    }

    /// What it is.
    pub fn info(&self) -> &EncoderInfo {
        &self.0.info
    }

    /// Pictures that wait or are worked on, and how many may.
    pub fn occupancy(&self) -> (usize, usize) {
        self.0.pipeline.occupancy()
    }

    /// What it did so far.
    pub fn counters(&self) -> EncoderCounters {
        self.0.pipeline.counters()
    }

    /// How long the pictures that wait in `line` will keep the encoder busy, about.
    pub fn backlog(&self, line: Line) -> Duration {
        self.0.pipeline.backlog(line)
    }

    /// The embedding of `picture`, whose format is told from its bytes. It waits in `line`. Dropping the future gives
    /// the work up.
    ///
    /// # Errors
    /// [`EncoderError::Picture`] if the picture is at fault; [`EncoderError::Overloaded`] if too many wait, most often
    /// at once, but also when others' turn comes first; [`EncoderError::DeadlineExceeded`] when `deadline` passes.
    pub async fn encode(&self, picture: Bytes, line: Line, deadline: Deadline) -> Result<Encoded, EncoderError> {
        let span = telemetry::child(|| tracing::debug_span!("encode", bytes = picture.len()));
        self.0.pipeline.encode(picture, line, deadline).instrument(span).await
    }
}

/// The first session, and the device that it is on.
fn open_first(
    runtime: &runtime::Runtime,
    model: &Model,
    device: Device,
) -> Result<(PictureSession, Device), EncoderError> {
    if device != Device::Auto {
        return Ok((PictureSession::open(runtime, model, device)?, device));
    }
    match PictureSession::open(runtime, model, Device::Cuda(0)) {
        Ok(session) => Ok((session, Device::Cuda(0))),
        Err(EncoderError::Device { problem, .. }) => {
            tracing::debug!(problem, "no GPU: the model runs on the CPU");
            Ok((PictureSession::open(runtime, model, Device::Cpu)?, Device::Cpu))
        }
        Err(other) => Err(other),
    }
}

#[cfg(test)]
mod malformed_tests;
#[cfg(test)]
mod tests;
