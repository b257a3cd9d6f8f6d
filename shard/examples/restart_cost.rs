//! What the restart of a replica is made of: `restart_cost STATE_FOLDER GROUP [--rebuild]`, the folder being `state` in
//! the data folder of a node that does not run.
//!
//! Prints how long it takes to read the checkpoints, and to open the state until it can be searched.
//! With `--rebuild` it removes the checkpoints and prints how long building the graphs from the records takes instead.

use std::path::Path;
use std::time::{Duration, Instant};

use omma_shard::images::{ImageState, ImagesConfig, offline};
use omma_shard::store::Store;

const CACHE_BYTES: usize = 512 << 20;
const FLUSH_EVERY: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, group, rest @ ..] = arguments.as_slice() else {
        return Err("usage: restart_cost STATE_FOLDER GROUP [--rebuild]".into());
    };
    let group = group.parse()?;

    let begin = Instant::now();
    let store = Store::open(Path::new(folder), CACHE_BYTES, FLUSH_EVERY)?;
    println!("opening the store: {:.2?}", begin.elapsed());
    if rest.iter().any(|a| a == "--rebuild") {
        offline::remove_checkpoints(&store, group)?;
    } else {
        let begin = Instant::now();
        let bytes = offline::read_checkpoints(&store, group)?;
        println!("reading the {} MiB of its checkpoints from sled: {:.2?}", bytes >> 20, begin.elapsed());
    }
    let begin = Instant::now();
    let state = ImageState::open(store, group, &ImagesConfig::default())?;
    println!("opening the state until it can be searched: {:.2?}", begin.elapsed());
    while state.stats().tail > 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("until all of its {} images are in the graphs: {:.2?}", state.stats().images, begin.elapsed());
    Ok(())
}
