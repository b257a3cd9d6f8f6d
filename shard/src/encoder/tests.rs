//! The encoder as a whole, with the real runtime and the built-in model.

use std::sync::OnceLock;

use image::{ImageFormat, RgbImage};

use super::*;

/// One for all tests: a process loads one runtime. The library comes from a package registry the first time.
pub(super) fn encoder() -> &'static Encoder {
    static ENCODER: OnceLock<Encoder> = OnceLock::new();
    ENCODER.get_or_init(|| {
        let config = EncoderConfig { device: Device::Cpu, workers: 2, ..config() };
        Encoder::start(config).unwrap()
    })
}

fn config() -> EncoderConfig {
    let library = omma_common::fetch::onnxruntime().unwrap();
    EncoderConfig { runtime_library: Some(library), ..EncoderConfig::default() }
}

fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn picture(seed: u32, format: ImageFormat) -> Bytes {
    let blot = |x: u32, y: u32, k: u32| (((x * k / 7) ^ (y * (k + seed) / 5)) % 256) as u8;
    let image = RgbImage::from_fn(300, 200, |x, y| image::Rgb([blot(x, y, 3), blot(x, y, 5), blot(x, y, 2)]));
    let mut out = std::io::Cursor::new(Vec::new());
    image.write_to(&mut out, format).unwrap();
    out.into_inner().into()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn the_same_picture_is_near_and_another_is_not() {
    let encode = |bytes| async { encoder().encode(bytes, Line::COMMON, deadline()).await.unwrap().embedding };
    let png = encode(picture(1, ImageFormat::Png)).await;
    assert_eq!(png.len(), 1280);
    assert!((cosine(&png, &png) - 1.0).abs() < 1e-5);
    assert_eq!(png, encode(picture(1, ImageFormat::Png)).await, "the same bytes, the same numbers");
    assert!(cosine(&png, &encode(picture(1, ImageFormat::Bmp)).await) > 0.99999);
    let other = cosine(&png, &encode(picture(9, ImageFormat::Png)).await);
    assert!(other < 0.99, "{other}");
}

#[test]
fn the_space_has_its_name_for_good() {
    // Changing this name strands every stored collection: only a new model or preprocessing may.
    let info = encoder().info();
    assert_eq!((info.space_id.as_str(), info.dimension, info.device.as_str()), (SPACE, 1280, "cpu"));
}

const SPACE: &str = "omma-enc-9659a17eb865ecac";

#[test]
fn a_model_directory_gives_the_same_space() {
    encoder();
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/efficientnet-lite0");
    let model = ModelSource::Directory(directory);
    let copy = Encoder::start(EncoderConfig { model, device: Device::Cpu, workers: 1, ..config() }).unwrap();
    assert_eq!(copy.info().space_id, encoder().info().space_id);
}

#[test]
fn devices_that_are_not_there() {
    encoder();
    let auto = Encoder::start(EncoderConfig { device: Device::Auto, workers: 1, ..config() }).unwrap();
    assert_eq!(auto.info().device, "cpu", "the library of the CPU package has no CUDA");
    let cuda = Encoder::start(EncoderConfig { device: Device::Cuda(0), workers: 1, ..config() }).err().unwrap();
    assert!(matches!(&cuda, EncoderError::Device { device, .. } if device == "cuda:0"), "{cuda}");
}

#[test]
fn graphs_that_are_no_models() {
    encoder();
    let folder = tempfile::tempdir().unwrap();
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/efficientnet-lite0");
    std::fs::write(folder.path().join("model.onnx"), "not a graph").unwrap();
    std::fs::copy(source.join("preprocessor_config.json"), folder.path().join("preprocessor_config.json")).unwrap();
    let start = || {
        let model = ModelSource::Directory(folder.path().to_owned());
        Encoder::start(EncoderConfig { model, device: Device::Cpu, ..config() }).err().unwrap()
    };
    assert!(matches!(start(), EncoderError::Model(ModelError::Graph { .. })), "{}", start());
    // The right graph with a preprocessing of another size.
    std::fs::copy(source.join("model.onnx"), folder.path().join("model.onnx")).unwrap();
    let json = std::fs::read_to_string(source.join("preprocessor_config.json")).unwrap();
    std::fs::write(folder.path().join("preprocessor_config.json"), json.replace("224", "192")).unwrap();
    let error = start().to_string();
    assert!(error.contains("[batch, 3, 192, 192]"), "{error}");
}

/// A folder with one of the tiny graphs and a preprocessing that leaves an 8 x 8 picture as it is.
fn fixture(graph: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let graphs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/fixtures");
    std::fs::create_dir(folder.path().join("onnx")).unwrap();
    std::fs::copy(graphs.join(graph), folder.path().join("onnx/model.onnx")).unwrap();
    let config = r#"{"do_resize": false, "crop_size": 8, "do_rescale": false, "do_normalize": false}"#;
    std::fs::write(folder.path().join("preprocessor_config.json"), config).unwrap();
    folder
}

fn start(graph: &str) -> Result<Encoder, EncoderError> {
    encoder();
    let folder = fixture(graph);
    let model = ModelSource::Directory(folder.path().to_owned());
    Encoder::start(EncoderConfig { model, device: Device::Cpu, workers: 1, max_batch: 8, ..config() })
}

/// Red in the first row, green everywhere.
fn eight() -> Bytes {
    let image = RgbImage::from_fn(8, 8, |_, y| image::Rgb([if y == 0 { 200 } else { 0 }, 100, 0]));
    let mut out = std::io::Cursor::new(Vec::new());
    image.write_to(&mut out, ImageFormat::Png).unwrap();
    out.into_inner().into()
}

#[tokio::test]
async fn outputs_are_read_as_their_kind_asks() {
    for (graph, dimension, first_of_red) in
        [("tokens.onnx", 64, 8f32.sqrt().recip()), ("planes.onnx", 3, 0.242_54), ("batch1.onnx", 3, 0.242_54)]
    {
        let encoder = start(graph).unwrap();
        assert_eq!(encoder.info().dimension, dimension, "{graph}");
        let embedding = encoder.encode(eight(), Line::COMMON, deadline()).await.unwrap().embedding;
        assert!((embedding[0] - first_of_red).abs() < 1e-4, "{graph}: {embedding:?}");
    }
}

#[test]
fn models_that_cannot_be_used_say_why() {
    for (graph, why) in [
        ("towers.onnx", "input_ids"),
        ("half.onnx", "32-bit floats"),
        ("classes.onnx", "no output is an embedding"),
        ("batch4.onnx", "batches of 4"),
    ] {
        let error = start(graph).err().unwrap();
        assert!(matches!(error, EncoderError::Model(ModelError::Graph { .. })), "{graph}: {error}");
        assert!(error.to_string().contains(why), "{graph}: {error}");
    }
}

#[tokio::test]
async fn an_infinite_output_is_an_error() {
    let error = start("infinite.onnx").unwrap().encode(eight(), Line::COMMON, deadline()).await.unwrap_err();
    assert!(matches!(error, EncoderError::Output(_)), "{error}");
}
