//! A value made of files, made anew when they change.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use super::stale::Kept;

/// Between two looks at the files.
const EVERY: Duration = Duration::from_secs(2);

type Load<T, E> = Box<dyn Fn() -> Result<T, E> + Send + Sync>;

/// The newest good version of a value. Clones share it; the thread that looks at the files ends with the last of them.
pub struct Watched<T>(Arc<RwLock<Arc<T>>>);

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> std::fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watched")
    }
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Loads the value now, and again within two seconds of a change of one of `files`. A version that does not load is
    /// reported as an error, in the log and by a metric, and left out: the one before stays.
    ///
    /// # Errors
    /// Those of the first load.
    pub fn over<E>(
        what: Kept,
        files: Vec<PathBuf>,
        load: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E>
    where
        E: std::error::Error + Send + 'static,
    {
        Self::every(EVERY, what, files, Box::new(load))
    }

    fn every<E>(every: Duration, what: Kept, files: Vec<PathBuf>, load: Load<T, E>) -> Result<Self, E>
    where
        E: std::error::Error + Send + 'static,
    {
        // Before the load: what changes during it is seen by the next look.
        let mut known = stamps(&files);
        let value = Arc::new(RwLock::new(Arc::new(load()?)));
        let weak = Arc::downgrade(&value);
        let (name, mut stale) = (what.name(), None);
        let watch = move || {
            loop {
                std::thread::sleep(every);
                let Some(value) = weak.upgrade() else { return };
                let now = stamps(&files);
                if now == known {
                    continue;
                }
                known = now;
                match load() {
                    Ok(new) => {
                        *value.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                        tracing::info!(?files, "{name} loaded anew");
                        stale = None;
                    }
                    Err(error) => {
                        tracing::error!(?files, %error, "{name} changed and cannot be used: the old one stays");
                        stale.get_or_insert_with(SystemTime::now);
                    }
                }
                what.stale_since(stale);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("omma-watch".into()).spawn(watch) {
            tracing::error!(%error, "{name} will not be loaded anew when it changes");
        }
        Ok(Self(value))
    }

    /// The newest good version.
    pub fn get(&self) -> Arc<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What tells one version of a file from another. Symbolic links are followed, as Kubernetes swaps those.
type Stamp = Option<(SystemTime, u64, u64)>;

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |file: &PathBuf| {
        let facts = std::fs::metadata(file).ok()?;
        Some((facts.modified().ok()?, facts.len(), inode(&facts)))
    };
    files.iter().map(stamp).collect()
}

#[cfg(unix)]
fn inode(facts: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(facts)
}

#[cfg(not(unix))]
fn inode(_: &std::fs::Metadata) -> u64 {
    0
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;

    /// What the metric shows, once it is as wanted.
    fn stale_since(wanted: impl Fn(i64) -> bool) -> i64 {
        let shown = || crate::tls::stale::shown(Kept::ApiKeys);
        for _ in 0..1000 {
            if wanted(shown()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        shown()
    }

    #[test]
    fn a_bad_version_leaves_the_last_good_one() {
        let folder = std::env::temp_dir().join(format!("omma-watched-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("n");
        std::fs::write(&file, "1").unwrap();
        let load = {
            let file = file.clone();
            move || std::fs::read_to_string(&file).unwrap_or_default().parse::<u32>()
        };
        let value =
            Watched::every(Duration::from_millis(5), Kept::ApiKeys, vec![file.clone()], Box::new(load)).unwrap();
        let becomes = |wanted: u32| {
            (0..1000).any(|_| {
                *value.get() == wanted || {
                    std::thread::sleep(Duration::from_millis(5));
                    false
                }
            })
        };
        assert!(becomes(1));
        std::fs::write(&file, "no number").unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(*value.get(), 1);
        let told = stale_since(|since| since > 0);
        std::fs::write(&file, "no number either").unwrap();
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(stale_since(|since| since > 0), told, "since the first that could not be used");
        std::fs::write(&file, "23").unwrap();
        assert!(becomes(23));
        assert_eq!(stale_since(|since| since == 0), 0);
        let held = Arc::downgrade(&value.0);
        drop(value);
        assert!((0..1000).any(|_| held.strong_count() == 0 || {
            std::thread::sleep(Duration::from_millis(5));
            false
        }));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
