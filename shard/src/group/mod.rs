//! One replica of one Raft group: propose, read barrier, status; log store; network. The only folder that names
//! openraft.

pub mod state_machine;
