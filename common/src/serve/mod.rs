//! A server's connections: how they are taken, how many there may be, how long they may idle.
//!
//! [`Incoming`] accepts and shakes hands; each connection tells requests who is at its other end ([`ConnectInfo`]); the
//! layer [`Track`] tells the connection which requests run, so that one that idles can be closed, or give way when
//! there are too many; an answer that nobody reads is ended. No address has more than its share of them. The layer [`Arriving`] bounds what requests take in
//! memory.
//! Callers in the same process need no connection ([`InProcess`]).

mod accept;
mod activity;
mod args;
mod arriving;
mod connection;
mod in_process;
mod origin;
mod shaking;
mod track;
mod unsent;

pub use accept::{Incoming, Security};
pub use activity::InFlight;
pub use args::{ConnectionArgs, ConnectionLimits};
pub use arriving::{AnswerPart, Arriving, MessageParts, Weighed, Whose};
pub use connection::{ConnectInfo, Connection};
pub use in_process::InProcess;
pub use origin::Origin;
pub use track::{Track, Tracked, hold};
