//! Messages of random bytes.

use rand::Rng;
use rand::rngs::StdRng;

/// Random bytes; half of them look like a message: a few fields of random numbers, kinds and lengths.
pub(crate) fn message(rng: &mut StdRng) -> Vec<u8> {
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
