//! Messages that are none: bytes as they are, in place of what a call's codec would make.

use bytes::{Buf, BufMut};
use rand::Rng;
use rand::rngs::StdRng;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Bytes as they are.
#[derive(Debug, Default, Clone, Copy)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = usize;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let length = from.remaining();
        from.advance(length);
        Ok(Some(length))
    }
}

/// Random bytes; half of them look like a message: a few fields of random numbers, kinds and lengths.
pub fn message(rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    if rng.random() {
        let length = rng.random_range(0..200);
        bytes.extend((0..length).map(|_| rng.random::<u8>()));
        return bytes;
    }
    for _ in 0..rng.random_range(1..6) {
        let (number, kind) = (rng.random_range(1..8u32), [0, 1, 2, 2, 2, 5][rng.random_range(0..6)]);
        bytes.push((number << 3 | kind) as u8);
        match kind {
            0 => prost::encoding::encode_varint(rng.random(), &mut bytes),
            1 => bytes.extend(rng.random::<[u8; 8]>()),
            5 => bytes.extend(rng.random::<[u8; 4]>()),
            _ => {
                // Names that exist, text, and messages within messages.
                let inner = match rng.random_range(0..4) {
                    0 => b"c".to_vec(),
                    1 => (0..rng.random_range(0..40)).map(|_| rng.random_range(32..127u8)).collect(),
                    _ => message(rng),
                };
                prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
                bytes.extend(inner);
            }
        }
    }
    bytes
}
