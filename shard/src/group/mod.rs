//! One replica of one Raft group: propose, read barrier, status; log store; network. The only folder that names
//! openraft.
//!
//! [`host`], [`replica`] and [`members`] are its face, with [`error`] and [`timings`]. Below: [`log_store`] over
//! [`log_db`] and [`log_writer`] (one store and one writing thread for the logs of all groups), [`machine`] (drives a
//! [`state_machine::StateMachine`]), [`network`] over [`peers`], [`snapshot`] (transfer), [`wire`] (what is sent and
//! stored), [`trail`] (traces).

mod damage;
pub mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod host;
pub mod inbound;
mod log_db;
mod log_record;
mod log_store;
mod log_tail;
mod log_writer;
mod machine;
pub mod members;
mod network;
pub mod peers;
mod purging;
mod quiet;
pub mod replica;
mod snapshot;
pub mod state_machine;
pub mod status;
pub mod timings;
mod trail;
mod types;
mod wire;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod test_state;

pub use damage::Damage;
pub use error::GroupError;
pub use host::GroupHost;
pub use log_writer::LogCounters;
pub use members::MemberChange;
pub use peers::AddressBook;
pub use replica::{Barrier, Proposed, Replica};
pub use status::{GroupState, Role};
pub use timings::RaftTimings;
