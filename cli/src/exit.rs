//! How a command ends: errors, what is said about them, exit codes.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use omma_client::{ClientError, Origin};
use tonic::Code;

use crate::backup::{InvalidPlace, StoreError};

/// Shown at the end of `omma --help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    refused or failed; of several images or files, at least one
  2    the command line is wrong
  3    the cluster, or the object store of a backup, cannot be reached, is not available, or did not answer in time
  130  interrupted";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command line asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// The cluster, or the way to it.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// Where a backup is.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file that must be read or written.
    #[error("cannot {what}: {source}")]
    Io {
        /// Continues "cannot …".
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// Anything else; a whole sentence.
    #[error("{0}")]
    Failed(String),
    /// Some images or files failed, which has been said already.
    #[error("{0} failed")]
    Some(usize),
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// Whoever read the output went away.
    #[error("the output was closed")]
    OutputClosed,
}

impl From<InvalidPlace> for CliError {
    fn from(error: InvalidPlace) -> Self {
        Self::Usage(error.to_string())
    }
}

impl CliError {
    pub(crate) fn reading(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path: PathBuf = path.to_owned();
        move |source| Self::Io { what: format!("read {}", path.display()), source }
    }

    pub(crate) fn writing(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path: PathBuf = path.to_owned();
        move |source| Self::Io { what: format!("write {}", path.display()), source }
    }

    pub(crate) fn output(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Io { what: "write the output".into(), source: error },
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Client(error) if is_unavailable(error) => 3,
            Self::Store(error) if error.is_unavailable() => 3,
            Self::Client(error) if error.origin() == Origin::Client && error.code() == Code::InvalidArgument => 2,
            Self::Interrupted => 130,
            // Like any filter whose reader has seen enough.
            Self::OutputClosed => 0,
            _ => 1,
        }
    }
}

fn is_unavailable(error: &ClientError) -> bool {
    error.origin() == Origin::Transport || matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded)
}

/// Says what went wrong and returns the exit code for it.
pub(crate) fn report(error: &CliError) -> ExitCode {
    if !matches!(error, CliError::OutputClosed | CliError::Some(_)) {
        // Nobody is left to tell if this fails.
        let _ = writeln!(std::io::stderr(), "omma: {error}");
    }
    ExitCode::from(error.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_help() {
        let io = |kind| CliError::output(std::io::Error::from(kind));
        assert_eq!(CliError::Usage("x".into()).code(), 2);
        assert_eq!(CliError::Client(tonic::Status::unavailable("x").into()).code(), 3);
        assert_eq!(CliError::Client(tonic::Status::not_found("x").into()).code(), 1);
        assert_eq!((io(ErrorKind::BrokenPipe).code(), io(ErrorKind::StorageFull).code()), (0, 1));
        assert_eq!((CliError::Some(3).code(), CliError::Interrupted.code()), (1, 130));
    }
}
