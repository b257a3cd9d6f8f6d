//! One image as clients see it: it is not there, or it has the value that was put last.

/// What an image is: `None` if it is not there. Values are numbers that stand for embeddings and attributes.
pub type State = Option<u64>;

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Put this value.
    Put(u64),
    /// Delete.
    Delete,
    /// Read by id.
    Get,
    /// Look for the image by the embedding of this value.
    Find(u64),
}

/// What a put said that it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// There was none.
    Created,
    /// There was one of another value.
    Replaced,
    /// It had this value already.
    Unchanged,
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// To a put.
    Put(Effect),
    /// To a delete: whether there was an image.
    Deleted(bool),
    /// To a get.
    Got(State),
    /// To a search: whether the image was found with that embedding.
    Found(bool),
}

/// The state after `call`, with the answer that it must have given in `state`.
pub fn step(state: State, call: Call) -> (State, Answer) {
    match call {
        Call::Put(value) => {
            let effect = match state {
                None => Effect::Created,
                Some(old) if old == value => Effect::Unchanged,
                Some(_) => Effect::Replaced,
            };
            (Some(value), Answer::Put(effect))
        }
        Call::Delete => (None, Answer::Deleted(state.is_some())),
        Call::Get => (state, Answer::Got(state)),
        Call::Find(value) => (state, Answer::Found(state == Some(value))),
    }
}

impl Call {
    /// Whether it never changes anything.
    pub fn is_read(self) -> bool {
        matches!(self, Self::Get | Self::Find(_))
    }
}
