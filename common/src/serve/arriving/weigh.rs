//! Weighs a message while it arrives: what it will take in memory once it is decoded, beyond its own bytes. An empty part
//! is two bytes on the wire and some hundred in memory, so the bytes alone say nothing. Looks at keys and lengths only:
//! what is in pictures and texts is skipped.

use super::shapes::{Kind, ShapeId, Shapes};

/// Parts within parts; as deep as the decoder goes.
const DEEPEST: usize = 100;
/// Bytes of the longest number on the wire.
const LONGEST_NUMBER: u8 = 10;

/// The bytes are no message of this kind. The decoder would refuse them too, or skip what it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no message of this call")]
pub(super) struct NoMessage;

/// A message, or a part of one, that is being read.
#[derive(Debug)]
struct Level {
    shape: ShapeId,
    /// Bytes of it that are to come.
    left: u64,
    /// Which of its fields came already, by a bit for each number.
    seen: u64,
}

/// What comes next.
#[derive(Debug, Clone, Copy)]
enum Next {
    Key,
    /// A number that is skipped.
    Number,
    /// The length of a field of that number.
    Length(usize),
}

#[derive(Debug)]
pub(super) struct Weigh {
    levels: Vec<Level>,
    /// Bytes that are none of its business.
    skip: u64,
    next: Next,
    /// The number that is being read, and its bytes so far.
    number: (u64, u8),
}

impl Weigh {
    /// Of a message with so many bytes.
    pub(super) fn new(shape: ShapeId, length: u64) -> Self {
        let levels = vec![Level { shape, left: length, seen: 0 }];
        Self { levels, skip: 0, next: Next::Key, number: (0, 0) }
    }

    /// Goes on by `bytes`, which belong to the message; returns what they add to its weight.
    pub(super) fn add(&mut self, shapes: &Shapes, mut bytes: &[u8]) -> Result<usize, NoMessage> {
        let mut weight = 0;
        loop {
            let skipped = usize::try_from(self.skip).map_or(bytes.len(), |skip| skip.min(bytes.len()));
            (bytes, self.skip) = (&bytes[skipped..], self.skip - skipped as u64);
            let Some((byte, rest)) = bytes.split_first() else { return Ok(weight) };
            bytes = rest;
            let Some(number) = self.digit(*byte)? else { continue };
            weight += match std::mem::replace(&mut self.next, Next::Key) {
                Next::Key => self.key(shapes, number)?,
                Next::Number => 0,
                Next::Length(field) => self.length(shapes, field, number)?,
            };
        }
    }

    /// The number that ends with this byte, if one does.
    fn digit(&mut self, byte: u8) -> Result<Option<u64>, NoMessage> {
        // A part that ended is left when what comes after it comes.
        while self.levels.last().is_some_and(|level| level.left == 0) {
            // In the midst of a number nothing ends.
            if self.levels.len() == 1 || self.number.1 > 0 || !matches!(self.next, Next::Key) {
                return Err(NoMessage);
            }
            self.levels.pop();
        }
        self.take(1)?;
        let (value, digits) = &mut self.number;
        if *digits == LONGEST_NUMBER {
            return Err(NoMessage);
        }
        *value |= u64::from(byte & 0x7F).checked_shl(7 * u32::from(*digits)).unwrap_or(0);
        *digits += 1;
        match byte < 0x80 {
            true => Ok(Some(std::mem::take(&mut self.number).0)),
            false => Ok(None),
        }
    }

    /// Takes `bytes` of the part that is being read.
    fn take(&mut self, bytes: u64) -> Result<(), NoMessage> {
        let level = self.levels.last_mut().ok_or(NoMessage)?;
        level.left = level.left.checked_sub(bytes).ok_or(NoMessage)?;
        Ok(())
    }

    fn key(&mut self, shapes: &Shapes, key: u64) -> Result<usize, NoMessage> {
        let number = usize::try_from(key >> 3).map_err(|_| NoMessage)?;
        if number == 0 || key > u64::from(u32::MAX) {
            return Err(NoMessage);
        }
        match key & 7 {
            0 => self.next = Next::Number,
            1 => self.skip(8)?,
            2 => {
                self.next = Next::Length(number);
                return Ok(0);
            }
            5 => self.skip(4)?,
            // Groups among them: the protocol has none, and never will.
            _ => return Err(NoMessage),
        }
        Ok(self.comes(shapes, number))
    }

    fn length(&mut self, shapes: &Shapes, number: usize, length: u64) -> Result<usize, NoMessage> {
        let shape = self.levels.last().ok_or(NoMessage)?.shape;
        match shapes.field(shape, number).kind {
            Kind::Message(part) => {
                let weight = self.comes(shapes, number);
                self.take(length)?;
                if self.levels.len() > DEEPEST {
                    return Err(NoMessage);
                }
                self.levels.push(Level { shape: part, left: length, seen: 0 });
                Ok(weight)
            }
            Kind::Numbers { together } => {
                self.skip(length)?;
                // No longer than the message, or the line above had refused it.
                Ok(usize::try_from(length).unwrap_or(usize::MAX).saturating_mul(together))
            }
            Kind::Plain => {
                self.skip(length)?;
                Ok(self.comes(shapes, number))
            }
        }
    }

    fn skip(&mut self, bytes: u64) -> Result<(), NoMessage> {
        self.take(bytes)?;
        self.skip = bytes;
        Ok(())
    }

    /// A field comes: what it adds to the weight.
    fn comes(&mut self, shapes: &Shapes, number: usize) -> usize {
        let Some(level) = self.levels.last_mut() else { return 0 };
        let field = shapes.field(level.shape, number);
        let bit = u32::try_from(number).ok().and_then(|number| 1u64.checked_shl(number)).unwrap_or(0);
        let again = level.seen & bit != 0;
        level.seen |= bit;
        if again { field.again } else { field.first }
    }
}
