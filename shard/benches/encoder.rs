//! The encoder: one picture at a time, and several in flight. Needs the inference library, which it gets as tests do.

// Benches fail by panicking, as tests do.
#![allow(clippy::expect_used)]

use std::io::Cursor;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use image::{ImageFormat, RgbImage};
use omma_common::deadline::Deadline;
use omma_shard::encoder::{Device, Encoder, EncoderConfig, Line};

const PATIENCE: Duration = Duration::from_secs(60);

/// A picture with something in it, as a JPEG.
fn picture(width: u32, height: u32) -> Bytes {
    let pixel = |x: u32, y: u32| image::Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, (x * y / 97) as u8]);
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_fn(width, height, pixel).write_to(&mut bytes, ImageFormat::Jpeg).expect("a picture");
    bytes.into_inner().into()
}

fn encode(c: &mut Criterion) {
    let library = omma_common::fetch::onnxruntime().expect("the inference library");
    let config = EncoderConfig { device: Device::Cpu, runtime_library: Some(library), ..EncoderConfig::default() };
    let encoder = Encoder::start(config).expect("an encoder");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut group = c.benchmark_group("encode");
    group.sample_size(20);
    for (name, picture) in [("640 x 480", picture(640, 480)), ("2000 x 1500", picture(2000, 1500))] {
        for in_flight in [1usize, 16] {
            group.throughput(Throughput::Elements(in_flight as u64));
            group.bench_function(BenchmarkId::new(name, in_flight), |b| {
                b.iter(|| {
                    let each = || encoder.encode(picture.clone(), Line::COMMON, Deadline::after(PATIENCE));
                    let all = futures::future::join_all((0..in_flight).map(|_| each()));
                    runtime.block_on(all).into_iter().for_each(|answer| drop(answer.expect("an embedding")));
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);
