//! One ONNX Runtime session: a batch of prepared pictures in, their vectors out.

use omma_common::limits::MAX_DIMENSION;
use ort::ep;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{Outlet, TensorElementType, TensorRef};

use super::batch::Infer;
use super::device::Device;
use super::error::EncoderError;
use super::model::{Graph, Model, ModelError};
use super::readout::{Output, Readout};
use super::runtime::Runtime;

/// Turns batches into vectors, on one device. Not shared: each worker has its own.
pub(super) struct PictureSession {
    session: Session,
    input: String,
    readout: Readout,
    /// Channels, height, width of one picture.
    shape: [usize; 3],
    one_at_a_time: bool,
}

impl PictureSession {
    /// Loads `model` onto `device`, which must not be [`Device::Auto`].
    pub(super) fn open(runtime: &Runtime, model: &Model, device: Device) -> Result<Self, EncoderError> {
        let session = build(runtime, model, device)?;
        let bad = |problem: String| ModelError::Graph { model: model.name.clone(), problem };
        let (width, height) = model.preprocessing.output().ok_or_else(|| bad("its pictures have no size".into()))?;
        let (input, one_at_a_time) = picture_input(session.inputs(), [height, width]).map_err(bad)?;
        let outputs: Vec<Output> = session.outputs().iter().filter_map(float_output).collect();
        let readout = Readout::choose(&outputs)
            .ok_or_else(|| bad(format!("no output is an embedding; its float outputs are {:?}", outputs.as_slice())))?;
        Ok(Self { session, input, readout, shape: [3, height as usize, width as usize], one_at_a_time })
    }

    /// How its output is read.
    pub(super) fn readout(&self) -> &Readout {
        &self.readout
    }

    /// Whether the graph was exported for a batch of exactly one.
    pub(super) fn one_at_a_time(&self) -> bool {
        self.one_at_a_time
    }

    /// Runs one black picture: that the model works, and the dimension of its embeddings.
    pub(super) fn probe(&mut self, model: &Model) -> Result<u32, EncoderError> {
        let bad = |problem: String| ModelError::Graph { model: model.name.clone(), problem };
        let picture = vec![0.0; self.shape.iter().product()];
        let vectors = self.run(&picture, 1).map_err(bad)?;
        let dimension = vectors.first().map_or(0, Vec::len);
        match u32::try_from(dimension) {
            Ok(d) if (1..=MAX_DIMENSION).contains(&d) => Ok(d),
            _ => Err(bad(format!("its dimension is {dimension}; 1 to {MAX_DIMENSION} are accepted")).into()),
        }
    }
}

impl Infer for PictureSession {
    fn run(&mut self, pictures: &[f32], batch: usize) -> Result<Vec<Vec<f32>>, String> {
        let [channels, height, width] = self.shape;
        let tensor =
            TensorRef::from_array_view(([batch, channels, height, width], pictures)).map_err(|e| e.to_string())?;
        let outputs = self.session.run(ort::inputs![self.input.as_str() => tensor]).map_err(|e| e.to_string())?;
        let output = outputs.get(&self.readout.output).ok_or("the output is missing")?;
        let (shape, numbers) = output.try_extract_tensor::<f32>().map_err(|e| e.to_string())?;
        self.readout.read(shape, numbers, batch)
    }
}

fn build(runtime: &Runtime, model: &Model, device: Device) -> Result<Session, EncoderError> {
    let graph_error = |problem: String| ModelError::Graph { model: model.name.clone(), problem };
    let device_error = |problem: String| EncoderError::Device { device: device.to_string(), problem };
    let plain = || {
        // One thread per session and no spinning: parallelism comes from several sessions, and decoding needs cores too.
        Session::builder(&runtime.environment)
            .map_err(|e| e.to_string())?
            .with_intra_threads(1)
            .map_err(|e| e.to_string())?
            .with_intra_op_spinning(false)
            .map_err(|e| e.to_string())?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(|e| e.to_string())
    };
    let mut builder = plain().map_err(graph_error)?;
    if let Device::Cuda(number) = device {
        let number = i32::try_from(number).map_err(|e| device_error(e.to_string()))?;
        let provider = ep::CUDA::default().with_device_id(number).build().error_on_failure();
        builder = builder.with_execution_providers([provider]).map_err(|e| device_error(e.to_string()))?;
    }
    match &model.graph {
        Graph::Bytes(bytes) => builder.commit_from_memory(bytes),
        Graph::File(path) => builder.commit_from_file(path),
    }
    .map_err(|e| match device {
        Device::Cuda(_) => device_error(e.to_string()),
        _ => graph_error(e.to_string()).into(),
    })
}

/// The name of the input for pictures of `size` (height, width), and whether it takes one at a time only.
fn picture_input(inputs: &[Outlet], size: [u32; 2]) -> Result<(String, bool), String> {
    let [input] = inputs else {
        let names: Vec<&str> = inputs.iter().map(Outlet::name).collect();
        return Err(format!(
            "it takes the inputs {names:?}, not one for pictures; of a model of several towers, use the image tower alone \
             (onnx/vision_model.onnx)"
        ));
    };
    if input.dtype().tensor_type() != Some(TensorElementType::Float32) {
        return Err(format!("its input {} is {:?}, not a tensor of 32-bit floats", input.name(), input.dtype()));
    }
    let shape: &[i64] = input.dtype().tensor_shape().map_or(&[], |s| s);
    // Below zero: any.
    let fits = |at: usize, n: i64| shape[at] < 0 || shape[at] == n;
    if shape.len() != 4 || !fits(1, 3) || !fits(2, size[0].into()) || !fits(3, size[1].into()) {
        return Err(format!(
            "its input {} has shape {shape:?}, but the preprocessing makes [batch, 3, {}, {}]",
            input.name(),
            size[0],
            size[1]
        ));
    }
    if shape[0] == 0 || shape[0] > 1 {
        return Err(format!("it only takes batches of {}; export it with a dynamic batch dimension", shape[0]));
    }
    Ok((input.name().to_owned(), shape[0] == 1))
}

fn float_output(outlet: &Outlet) -> Option<Output> {
    let float = outlet.dtype().tensor_type() == Some(TensorElementType::Float32);
    let rank = outlet.dtype().tensor_shape()?.len();
    float.then(|| Output { name: outlet.name().to_owned(), rank })
}
