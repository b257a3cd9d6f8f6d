//! Where a user's downloads are kept, and where in there the pieces lie that another process looks for.
//!
//! Pure path arithmetic: nothing here touches the disk or the network. What fills the folder is `fetch`.

use std::ffi::OsString;
use std::path::PathBuf;

/// The version of ONNX Runtime that Omma is tested with and that `fetch` gets.
pub const ONNXRUNTIME_VERSION: &str = "1.24.4";

/// `$OMMA_CACHE`, else `$XDG_CACHE_HOME/omma`, else `~/.cache/omma`. `None` if none of the three is set.
pub fn folder() -> Option<PathBuf> {
    choose(std::env::var_os("OMMA_CACHE"), std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME"))
}

/// The ONNX Runtime library that `fetch` puts into the cache folder, whether or not it is there yet.
pub fn onnxruntime() -> Option<PathBuf> {
    let place = format!("onnxruntime-{ONNXRUNTIME_VERSION}-{}", std::env::consts::ARCH);
    Some(folder()?.join(place).join(format!("libonnxruntime.so.{ONNXRUNTIME_VERSION}")))
}

fn choose(own: Option<OsString>, xdg: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let set = |value: Option<OsString>| value.filter(|v| !v.is_empty()).map(PathBuf::from);
    set(own)
        // A relative XDG path is invalid and to be ignored (XDG Base Directory Specification).
        .or_else(|| set(xdg).filter(|p| p.is_absolute()).map(|p| p.join("omma")))
        .or_else(|| set(home).map(|p| p.join(".cache").join("omma")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_specific_variable_wins() {
        let some = |s: &str| Some(OsString::from(s));
        assert_eq!(choose(some("/a"), some("/b"), some("/c")), Some(PathBuf::from("/a")));
        assert_eq!(choose(some(""), some("/b"), some("/c")), Some(PathBuf::from("/b/omma")));
        assert_eq!(choose(None, some("relative"), some("/c")), Some(PathBuf::from("/c/.cache/omma")));
        assert_eq!(choose(None, None, None), None);
    }
}
