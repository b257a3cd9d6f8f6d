//! `omma-shard-broken`: a shard node that breaks the promise that `OMMA_BROKEN` names. For tests of the tests only.

#![forbid(unsafe_code)]

/// In all else it is the shard node.
#[path = "../main.rs"]
mod node;

fn main() -> std::process::ExitCode {
    let broken = std::env::var("OMMA_BROKEN").unwrap_or_default();
    eprintln!("omma-shard-broken: this node breaks a promise on purpose: {broken:?}");
    node::main()
}
