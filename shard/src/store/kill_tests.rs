//! A process is killed again and again, mostly while it opens its store; whatever it said that it had flushed is there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const FOLDER: &str = "OMMA_KILLED_FOLDER";
const SEED: &str = "OMMA_SEED";
const STEP: &str = "OMMA_KILLED_STEP";
/// Often enough that flushes of the store's own thread are cut off, too.
const FLUSH_EVERY: Duration = Duration::from_millis(15);
const KEYS: u32 = 1500;
const LONGEST: usize = 1200;
/// For the victim to start, or to open its store: sled may read one that is damaged without end.
const PATIENCE: Duration = Duration::from_secs(60);

/// By key, what its value is made of.
type Model = BTreeMap<u32, (usize, u8)>;

fn value(&(length, salt): &(usize, u8)) -> Vec<u8> {
    (0..length).map(|at| ((at as u32).wrapping_mul(0x9E37_79B9) >> 24) as u8 ^ salt).collect()
}

/// What step `number` sets and removes. Now and then nearly all, so that files become shorter.
fn step(seed: u64, number: u64) -> Vec<(u32, Option<(usize, u8)>)> {
    let mut rng = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    if number % 12 == 11 {
        return (0..KEYS).filter(|_| rng.random_bool(0.97)).map(|key| (key, None)).collect();
    }
    let (begin, longest) = (rng.random_range(0..KEYS), rng.random_range(1..LONGEST));
    let keys = begin..(begin + rng.random_range(1..200)).min(KEYS);
    let removed = rng.random_bool(0.2);
    keys.map(|key| (key, (!removed).then(|| (rng.random_range(0..longest), rng.random())))).collect()
}

fn after(seed: u64, steps: u64) -> Model {
    let mut model = Model::new();
    for (key, entry) in (0..steps).flat_map(|number| step(seed, number)) {
        match entry {
            Some(entry) => model.insert(key, entry),
            None => model.remove(&key),
        };
    }
    model
}

fn contents(table: &Table) -> BTreeMap<u32, Vec<u8>> {
    let entries = table.prefix(b"").map(|entry| entry.unwrap());
    entries.map(|(key, value)| (u32::from_be_bytes(*key.first_chunk().unwrap()), value.to_vec())).collect()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

fn say(what: &str) {
    let mut out = std::io::stdout();
    out.write_all(format!("\n@{what}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// What is killed: the test below starts it, in a process of its own.
#[test]
#[ignore = "started by the test beside it"]
fn victim() {
    // Nobody is there to kill it, and it would go on for ever.
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let (seed, told) = (number(SEED).unwrap(), number(STEP).unwrap());
    say("opening");
    let store = Store::open(Path::new(&folder), 1 << 20, FLUSH_EVERY).unwrap();
    let table = store.table("t").unwrap();
    let found = contents(&table);
    let expected =
        |steps| after(seed, steps).iter().map(|(key, entry)| (*key, value(entry))).collect::<BTreeMap<_, _>>();
    // The step that was under way may have been flushed or not.
    let steps = [told, told + 1].into_iter().find(|steps| found == expected(*steps));
    let mut steps = steps.unwrap_or_else(|| panic!("{} entries, not those after {told} steps", found.len()));
    say(&format!("{steps}"));
    loop {
        let mut batch = Batch::default();
        for (key, entry) in step(seed, steps) {
            match entry {
                Some(entry) => batch.insert(key.to_be_bytes(), value(&entry)),
                None => batch.remove(key.to_be_bytes()),
            }
        }
        table.apply(batch).unwrap();
        store.flush().unwrap();
        steps += 1;
        say(&format!("{steps}"));
    }
}

/// Lines that begin with `@`, as they are said, until there are no more.
fn listen(out: impl Read + Send + 'static) -> Receiver<String> {
    let (tell, said) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.strip_prefix('@').is_some_and(|what| tell.send(what.to_owned()).is_err()) {
                return;
            }
        }
    });
    said
}

/// Starts the victim and kills it after a while; returns how many steps it has done. An error is why it ended by itself.
fn kill_once(folder: &Path, seed: u64, steps: u64, moment: Moment) -> Result<u64, String> {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::kill_tests::victim", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(SEED, seed.to_string())
        .env(STEP, steps.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let complaints = victim.stderr.take().unwrap();
    let complaint = std::thread::spawn(move || std::io::read_to_string(complaints).unwrap());
    let said = listen(victim.stdout.take().unwrap());
    let hear = || said.recv_timeout(PATIENCE);
    let opening = hear().is_ok_and(|what| what == "opening");
    let opened = moment.opened.then(|| hear().ok().and_then(|what| what.parse().ok()));
    std::thread::sleep(moment.later);
    victim.kill().unwrap();
    let last = said.iter().filter_map(|what| what.parse().ok()).last();
    let steps = last.or(opened.flatten()).unwrap_or(steps);
    let (ended, complaint) = (victim.wait().unwrap(), complaint.join().unwrap());
    match (ended.signal(), opening, opened) {
        (Some(9), true, None | Some(Some(_))) => Ok(steps),
        _ => Err(format!("{ended}, opened: {opened:?}\n{complaint}")),
    }
}

/// When the victim is killed: so long after it begins to open its store, or after it has opened it.
#[derive(Clone, Copy)]
struct Moment {
    opened: bool,
    later: Duration,
}

impl Moment {
    fn draw(rng: &mut StdRng) -> Self {
        let opened = rng.random_bool(0.4);
        Self { opened, later: Duration::from_micros(rng.random_range(0..if opened { 200_000 } else { 40_000 })) }
    }
}

/// `OMMA_SEED` says which kills, `OMMA_KILLS` how many: few by default, as sled has the system sync its disks whenever it
/// opens a store.
#[test]
fn what_was_flushed_survives_kills() {
    let (seed, kills) = (number(SEED).unwrap_or_else(rand::random), number("OMMA_KILLS").unwrap_or(40));
    println!("OMMA_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("store");
    let mut steps = 0;
    let mut idle = 0;
    for kill in 0..=kills {
        let before = steps;
        // The last one looks at what all others have left.
        let moment =
            if kill == kills { Moment { opened: true, later: Duration::ZERO } } else { Moment::draw(&mut rng) };
        match kill_once(&folder, seed, steps, moment) {
            Ok(done) => steps = done,
            Err(said) => {
                println!("kept in {}", dir.keep().display());
                panic!("OMMA_SEED={seed}: after {kill} kills and {steps} steps: {said}");
            }
        }
        idle += u64::from(steps == before);
    }
    println!("{kills} kills, {idle} of them before anything was done, {steps} steps");
    assert!(kills < 50 || (steps > kills && idle > kills / 10), "too few at either moment");
}
