//! A Python with grpcio and the code generated from the .proto files, in the target folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::folders::{repository, target_folder};

/// What runs a Python client of Omma.
#[derive(Debug, Clone)]
pub struct Python {
    /// In a virtual environment of its own.
    pub interpreter: PathBuf,
    /// For `PYTHONPATH`: the generated modules.
    pub generated: PathBuf,
}

/// Makes the virtual environment, once for each version of `requirements.txt`, and generates the code. Blocks, for
/// a minute at worst.
///
/// # Errors
/// If there is no python3 with venv, or pip cannot get the packages.
pub fn prepare() -> Result<Python> {
    let folder = target_folder()?.join("python-client");
    let requirements = repository().join("integration-tests/python/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements)?;
    let environment = folder.join("venv");
    let interpreter = environment.join("bin/python");
    let done = environment.join("requirements.done");
    if std::fs::read_to_string(&done).ok().as_ref() != Some(&wanted) {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        run(Command::new(&interpreter).args(pip).arg(&requirements))?;
        std::fs::write(&done, &wanted)?;
    }
    let generated = folder.join("generated");
    generate(&interpreter, &generated)?;
    Ok(Python { interpreter, generated })
}

/// Only `omma.v1`: `google.rpc.Status` comes from googleapis-common-protos, as in any other Python client.
fn generate(interpreter: &Path, into: &Path) -> Result<()> {
    std::fs::create_dir_all(into)?;
    let proto = repository().join("proto");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(proto.join("omma/v1"))? {
        files.push(entry?.path());
    }
    files.sort();
    let mut protoc = Command::new(interpreter);
    protoc.args(["-m", "grpc_tools.protoc"]);
    for (flag, folder) in
        [("-I", &proto), ("--python_out=", &into.to_owned()), ("--grpc_python_out=", &into.to_owned())]
    {
        protoc.arg(format!("{flag}{}", folder.display()));
    }
    run(protoc.args(files)).map(drop)
}

/// Runs a program to its end; returns what it said on both outputs.
///
/// # Errors
/// If it fails (with what it said) or does not say that all its checks passed.
pub fn run_script(python: &Python, script: &Path, arguments: &[String]) -> Result<String> {
    let mut command = Command::new(&python.interpreter);
    command.env("PYTHONPATH", &python.generated).env("PYTHONDONTWRITEBYTECODE", "1");
    let said = run(command.arg(script).args(arguments))?;
    ensure!(said.contains("all checks passed"), "{} did not come to its end:\n{said}", script.display());
    Ok(said)
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    Ok(said)
}
