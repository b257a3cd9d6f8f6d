use std::io::Cursor;

use image::{ImageFormat, RgbImage};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::super::error::PictureError;
use super::super::preprocess::{Filter, Preprocessing};
use super::*;

/// Answers `[mean of the picture, 1]`, after a pause; remembers the sizes of its batches.
#[derive(Clone, Default)]
struct Mean {
    pause: Duration,
    batches: Arc<Mutex<Vec<usize>>>,
}

impl Infer for Mean {
    fn run(&mut self, pictures: &[f32], batch: usize) -> Result<Vec<Vec<f32>>, String> {
        std::thread::sleep(self.pause);
        self.batches.lock().push(batch);
        let each = pictures.len() / batch;
        Ok(pictures.chunks_exact(each).map(|p| vec![p.iter().sum::<f32>() / each as f32, 1.0]).collect())
    }
}

struct Broken(fn() -> Result<Vec<Vec<f32>>, String>);

impl Infer for Broken {
    fn run(&mut self, _: &[f32], _: usize) -> Result<Vec<Vec<f32>>, String> {
        (self.0)()
    }
}

/// Answers nothing until the other end is dropped.
struct Held(mpsc::Receiver<()>);

impl Infer for Held {
    fn run(&mut self, _: &[f32], batch: usize) -> Result<Vec<Vec<f32>>, String> {
        let _ = self.0.recv();
        Ok(vec![vec![1.0, 1.0]; batch])
    }
}

fn config() -> PipelineConfig {
    let resize = Some(super::super::preprocess::Resize::Exact { width: 8, height: 8 });
    PipelineConfig {
        limits: PictureLimits { bytes: 100_000, pixels: 100_000 },
        preprocessing: Preprocessing {
            resize,
            filter: Filter::Bicubic,
            crop: None,
            factor: 1.0,
            mean: [0.0; 3],
            std: [1.0; 3],
        },
        dimension: 2,
        decode_threads: 2,
        shared_cores: false,
        max_batch: 4,
        gather: Duration::ZERO,
        queue: 64,
        urgent_wait: Duration::from_secs(10),
        decode_memory: 1 << 20,
        waiting_bytes: 1_600_000,
        decode_patience: Duration::from_secs(20),
    }
}

fn pipeline(config: PipelineConfig, workers: Vec<Box<dyn Infer>>) -> Arc<Pipeline> {
    Arc::new(Pipeline::start(config, workers).unwrap())
}

fn picture(gray: u8) -> Bytes {
    let mut out = Cursor::new(Vec::new());
    RgbImage::from_pixel(10, 10, image::Rgb([gray; 3])).write_to(&mut out, ImageFormat::Png).unwrap();
    out.into_inner().into()
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

#[tokio::test]
async fn each_caller_gets_the_vector_of_its_own_picture() {
    let worker = Mean { pause: Duration::from_millis(3), ..Mean::default() };
    let batches = Arc::clone(&worker.batches);
    let pipeline = pipeline(config(), vec![Box::new(worker.clone()), Box::new(worker)]);
    let mut calls = JoinSet::new();
    for gray in 1..=50u8 {
        let pipeline = Arc::clone(&pipeline);
        calls.spawn(async move {
            let encoded = pipeline.encode(picture(gray), Line::COMMON, soon()).await.unwrap();
            let length = f32::hypot(gray.into(), 1.0);
            assert!((encoded.embedding[0] - f32::from(gray) / length).abs() < 1e-6, "{gray}: {encoded:?}");
        });
    }
    calls.join_all().await;
    let batches = batches.lock().clone();
    assert_eq!(pipeline.counters(), EncoderCounters { images: 50, batches: batches.len() as u64 });
    // Two workers, 3 ms each: the pictures of different callers must have come together.
    assert!(batches.iter().any(|&n| n > 1) && batches.iter().all(|&n| n <= 4), "{batches:?}");
}

#[tokio::test]
async fn a_full_queue_is_told_at_once_and_recovers() {
    let worker = Mean { pause: Duration::from_millis(200), ..Mean::default() };
    let pipeline = pipeline(PipelineConfig { queue: 2, max_batch: 1, ..config() }, vec![Box::new(worker)]);
    let mut calls = JoinSet::new();
    for _ in 0..2 {
        let pipeline = Arc::clone(&pipeline);
        calls.spawn(async move { pipeline.encode(picture(9), Line::COMMON, soon()).await });
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    let start = Instant::now();
    assert!(matches!(pipeline.encode(picture(9), Line::COMMON, soon()).await, Err(EncoderError::Overloaded)));
    assert!(start.elapsed() < Duration::from_millis(100));
    assert!(calls.join_all().await.iter().all(Result::is_ok));
    assert!(pipeline.encode(picture(9), Line::COMMON, soon()).await.is_ok());
}

#[tokio::test]
async fn waiting_bytes_are_bounded_too() {
    let worker = Mean { pause: Duration::from_millis(50), ..Mean::default() };
    let bytes = picture(1).len();
    let limits = PictureLimits { bytes, pixels: 1000 };
    let config = PipelineConfig { limits, decode_threads: 1, waiting_bytes: 16 * bytes, ..config() };
    let pipeline = pipeline(config, vec![Box::new(worker)]);
    // A permit is a kibibyte, and this picture is smaller: 16 of it are at most 16 permits.
    let held = pipeline.waiting_bytes.available_permits();
    assert_eq!(held, (16 * bytes).div_ceil(1024));
    let all = Arc::clone(&pipeline.waiting_bytes).try_acquire_many_owned(held as u32).unwrap();
    assert!(matches!(pipeline.encode(picture(1), Line::COMMON, soon()).await, Err(EncoderError::Overloaded)));
    drop(all);
    assert!(pipeline.encode(picture(1), Line::COMMON, soon()).await.is_ok());
}

#[tokio::test]
async fn what_nobody_waits_for_is_not_run() {
    let worker = Mean { pause: Duration::from_millis(150), ..Mean::default() };
    let batches = Arc::clone(&worker.batches);
    let pipeline = pipeline(PipelineConfig { max_batch: 1, ..config() }, vec![Box::new(worker)]);
    let first = {
        let pipeline = Arc::clone(&pipeline);
        tokio::spawn(async move { pipeline.encode(picture(1), Line::COMMON, soon()).await })
    };
    tokio::time::sleep(Duration::from_millis(30)).await;
    // Both wait behind the first: one runs out of time, the other's caller goes away.
    let late = pipeline.encode(picture(2), Line::COMMON, Deadline::after(Duration::from_millis(20))).await;
    assert!(matches!(late, Err(EncoderError::DeadlineExceeded)));
    let gone = tokio::time::timeout(Duration::from_millis(20), pipeline.encode(picture(3), Line::COMMON, soon())).await;
    assert!(gone.is_err());
    assert!(first.await.unwrap().is_ok());
    assert!(pipeline.encode(picture(4), Line::COMMON, soon()).await.is_ok());
    assert_eq!(batches.lock().len(), 2, "the first and the last");
    let passed = Deadline::after(Duration::ZERO);
    assert!(matches!(pipeline.encode(picture(5), Line::COMMON, passed).await, Err(EncoderError::DeadlineExceeded)));
}

#[tokio::test]
async fn bad_pictures_and_bad_models_cost_one_error() {
    let pipeline_of = |run| pipeline(config(), vec![Box::new(Broken(run))]);
    let run = |pipeline: Arc<Pipeline>, bytes: Bytes| async move {
        pipeline.encode(bytes, Line::COMMON, soon()).await.unwrap_err()
    };
    let good = pipeline(config(), vec![Box::new(Mean::default())]);
    let error = run(Arc::clone(&good), Bytes::from_static(b"no picture")).await;
    assert!(matches!(error, EncoderError::Picture(PictureError::UnknownFormat)), "{error}");
    assert!(good.encode(picture(1), Line::COMMON, soon()).await.is_ok());

    let nan = run(pipeline_of(|| Ok(vec![vec![f32::NAN, 1.0]])), picture(1)).await;
    assert!(matches!(nan, EncoderError::Output(_)), "{nan}");
    let none = run(pipeline_of(|| Ok(vec![])), picture(1)).await;
    assert!(matches!(none, EncoderError::Inference(_)), "{none}");
    let panics = pipeline_of(|| panic!("a runtime that panics"));
    for _ in 0..2 {
        let error = run(Arc::clone(&panics), picture(1)).await;
        assert!(matches!(error, EncoderError::Inference(_)), "{error}");
    }
}

#[tokio::test]
async fn stopping_answers_those_who_wait() {
    let worker = Mean { pause: Duration::from_secs(2), ..Mean::default() };
    let pipeline = pipeline(PipelineConfig { max_batch: 1, ..config() }, vec![Box::new(worker)]);
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let pipeline = Arc::clone(&pipeline);
            tokio::spawn(async move { pipeline.encode(picture(1), Line::COMMON, soon()).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    pipeline.shared.to_decode.close();
    pipeline.shared.to_infer.close();
    let mut stopped = 0;
    for call in calls {
        stopped += usize::from(matches!(call.await.unwrap(), Err(EncoderError::Stopped)));
    }
    assert_eq!(stopped, 2, "all but the one that was running");
}

#[tokio::test]
async fn a_flood_of_one_client_leaves_room_for_another() {
    let worker = Mean { pause: Duration::from_millis(20), ..Mean::default() };
    let batches = Arc::clone(&worker.batches);
    let config = PipelineConfig { queue: 16, max_batch: 1, decode_threads: 1, ..config() };
    let pipeline = pipeline(config, vec![Box::new(worker)]);
    let (flood, polite) = (Line { client: 1, urgent: true }, Line { client: 2, urgent: true });
    let mut calls = JoinSet::new();
    for _ in 0..16 {
        let pipeline = Arc::clone(&pipeline);
        calls.spawn(async move { pipeline.encode(picture(1), flood, soon()).await });
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    let before = batches.lock().len();
    assert!(pipeline.encode(picture(2), polite, soon()).await.is_ok());
    // Behind those that were taken already and one of the flood, not behind all of it.
    let ahead = batches.lock().len() - before;
    assert!(ahead <= 6, "{ahead}");
    let lost = calls.join_all().await.iter().filter(|call| matches!(call, Err(EncoderError::Overloaded))).count();
    assert!(lost <= 1, "{lost} of the flood had to go");
}

#[tokio::test]
async fn a_flood_that_waits_for_inference_leaves_a_decoder_to_others() {
    let (release, held) = mpsc::channel();
    let pipeline = pipeline(PipelineConfig { max_batch: 1, ..config() }, vec![Box::new(Held(held))]);
    let (flood, polite) = (Line { client: 1, urgent: false }, Line { client: 2, urgent: false });
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let pipeline = Arc::clone(&pipeline);
        calls.spawn(async move { pipeline.encode(picture(1), flood, soon()).await });
    }
    // One in inference, one before it, two with the threads that the flood may keep busy.
    while pipeline.shared.to_decode.waiting(flood) == 0 || pipeline.shared.to_decode.waiting(flood) > 16 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let no_picture =
        pipeline.encode(Bytes::from_static(b"text"), polite, Deadline::after(Duration::from_secs(5))).await;
    assert!(matches!(no_picture, Err(EncoderError::Picture(_))), "{no_picture:?}");
    drop(release);
    assert!(calls.join_all().await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn on_shared_cores_a_flood_has_no_more_threads_than_cores() {
    let (release, held) = mpsc::channel();
    let workers: Vec<Box<dyn Infer>> = vec![Box::new(Held(held)), Box::new(Mean::default())];
    let pipeline = pipeline(PipelineConfig { max_batch: 1, shared_cores: true, ..config() }, workers);
    let (flood, polite) = (Line { client: 1, urgent: false }, Line { client: 2, urgent: false });
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let pipeline = Arc::clone(&pipeline);
        calls.spawn(async move { pipeline.encode(picture(1), flood, soon()).await });
    }
    // One is held; the others go past it one after the other, and nothing is lost.
    for _ in 0..19 {
        assert!(calls.join_next().await.unwrap().unwrap().is_ok());
    }
    assert_eq!(pipeline.shared.to_decode.waiting(flood), 0);
    assert!(pipeline.encode(picture(2), polite, soon()).await.is_ok());
    drop(release);
    assert!(calls.join_next().await.unwrap().unwrap().is_ok());

    // With both workers held, two are at work and the rest waits where it can be refused.
    let (release, held): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::channel()).unzip();
    let workers = held.into_iter().map(|held| Box::new(Held(held)) as Box<dyn Infer>).collect();
    let pipeline = self::pipeline(PipelineConfig { max_batch: 1, shared_cores: true, ..config() }, workers);
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let pipeline = Arc::clone(&pipeline);
        calls.spawn(async move { pipeline.encode(picture(1), flood, soon()).await });
    }
    while pipeline.occupancy().0 < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(pipeline.shared.to_decode.waiting(flood), 18);
    drop(release);
    assert!(calls.join_all().await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_query_that_would_wait_too_long_is_told_at_once() {
    let worker = Mean { pause: Duration::from_millis(50), ..Mean::default() };
    let urgent_wait = Duration::from_millis(120);
    let config = PipelineConfig { max_batch: 1, decode_threads: 1, urgent_wait, ..config() };
    let pipeline = pipeline(config, vec![Box::new(worker)]);
    let (query, write) = (Line { client: 1, urgent: true }, Line { client: 1, urgent: false });
    assert!(pipeline.encode(picture(1), query, soon()).await.is_ok());
    let mut calls = JoinSet::new();
    for _ in 0..12 {
        let pipeline = Arc::clone(&pipeline);
        calls.spawn(async move { pipeline.encode(picture(1), query, soon()).await });
    }
    let refused = calls.join_all().await.iter().filter(|call| matches!(call, Err(EncoderError::Overloaded))).count();
    assert!((4..=10).contains(&refused), "{refused}");
    let mut calls = JoinSet::new();
    for _ in 0..6 {
        let pipeline = Arc::clone(&pipeline);
        calls.spawn(async move { pipeline.encode(picture(1), write, soon()).await });
    }
    assert!(calls.join_all().await.iter().all(Result::is_ok), "writes wait");
}

#[tokio::test]
async fn a_picture_that_takes_too_long_is_given_up_and_its_thread_replaced() {
    let limits = PictureLimits { bytes: 1 << 30, pixels: 100_000_000 };
    let patience = Duration::from_millis(1);
    let config =
        PipelineConfig { limits, decode_threads: 1, decode_patience: patience, decode_memory: 1 << 30, ..config() };
    let pipeline = pipeline(config, vec![Box::new(Mean::default())]);
    let mut out = Cursor::new(Vec::new());
    let noise = |x: u32, y: u32| (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)).to_be_bytes()[0];
    RgbImage::from_fn(4000, 4000, |x, y| image::Rgb([noise(x, y); 3])).write_to(&mut out, ImageFormat::Png).unwrap();
    let large = Bytes::from(out.into_inner());
    // More of them than there are threads: each is answered, and long before it would be done.
    for _ in 0..3 {
        let error = pipeline.encode(large.clone(), Line::COMMON, soon()).await.unwrap_err();
        assert!(
            matches!(error, EncoderError::Picture(PictureError::TooSlow { limit }) if limit == patience),
            "{error}"
        );
    }
    // The thread that is there now may be late on a busy machine, so once in a while even for a small one.
    let small = async { while pipeline.encode(picture(9), Line::COMMON, soon()).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), small).await.expect("no thread was left");
}
