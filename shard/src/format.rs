//! Stored values: a format byte, the payload, and a CRC-32 of both.

use prost::Message;

use crate::group::state_machine::StateError;

const FORMAT: u8 = 1;
const CRC: usize = 4;

fn damaged(what: &str, reason: impl Into<String>) -> StateError {
    StateError::Damaged { what: what.to_owned(), reason: reason.into() }
}

/// Wraps `payload` for storing.
pub(crate) fn seal(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + payload.len() + CRC);
    out.push(FORMAT);
    out.extend_from_slice(payload);
    out.extend(crc32fast::hash(&out).to_le_bytes());
    out
}

/// Wraps an encoded message for storing.
pub(crate) fn seal_message(message: &impl Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + message.encoded_len() + CRC);
    out.push(FORMAT);
    message.encode_raw(&mut out);
    out.extend(crc32fast::hash(&out).to_le_bytes());
    out
}

/// The payload of a stored value. `what` names it in the error.
pub(crate) fn open<'a>(what: &str, value: &'a [u8]) -> Result<&'a [u8], StateError> {
    let (body, crc) = value.split_last_chunk::<CRC>().ok_or_else(|| damaged(what, "too short"))?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(damaged(what, "its checksum is wrong"));
    }
    match body.split_first() {
        Some((&FORMAT, payload)) => Ok(payload),
        Some((other, _)) => Err(damaged(what, format!("it has format {other}; this version reads format {FORMAT}"))),
        None => Err(damaged(what, "too short")),
    }
}

/// The message in a stored value.
pub(crate) fn open_message<M: Message + Default>(what: &str, value: &[u8]) -> Result<M, StateError> {
    M::decode(open(what, value)?).map_err(|e| damaged(what, e.to_string()))
}

/// The embedding in a stored value.
pub(crate) fn open_embedding(value: &[u8]) -> Result<Vec<f32>, StateError> {
    omma_common::vector::from_bytes(open("embedding", value)?).map_err(|e| damaged("embedding", e.to_string()))
}

/// The number in a stored value.
pub(crate) fn open_u64(what: &str, value: &[u8]) -> Result<u64, StateError> {
    let payload = open(what, value)?;
    payload.try_into().map(u64::from_be_bytes).map_err(|_| damaged(what, "it is no 64-bit number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(payload in prop::collection::vec(any::<u8>(), 0..64), at: prop::sample::Index, bit in 0u8..8) {
            let mut sealed = seal(&payload);
            prop_assert_eq!(open("x", &sealed).unwrap(), &payload[..]);
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(open("x", &sealed).is_err());
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = open_embedding(&bytes);
            let _ = open_u64("x", &bytes);
        }
    }
}
