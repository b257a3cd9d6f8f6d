//! A folder of a model that is incomplete.

use anyhow::{Result, ensure};
use omma_integration_tests::folders::{binary, target_folder};
use omma_integration_tests::ports::free_port;

/// A model folder that lacks a file: the node says which, and ends.
#[test]
fn an_incomplete_model_folder_ends_the_node_with_a_message() -> Result<()> {
    let folder = target_folder()?.join("cluster-data").join(format!("model-{}", std::process::id()));
    let model = folder.join("model");
    std::fs::create_dir_all(&model)?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let run = || -> Result<_> {
        let mut command = std::process::Command::new(binary("omma-shard")?);
        command.args(["--listen", &address, "--advertise", &address, "--peers", &address]);
        command.args(["--groups", "1", "--replication", "1"]).arg("--data").arg(folder.join("data"));
        Ok(command.arg("--model").arg(&model).output()?)
    };
    for (present, missing) in [(None, "model.onnx"), (Some("model.onnx"), "preprocessor_config.json")] {
        if let Some(name) = present {
            std::fs::write(model.join(name), b"")?;
        }
        let output = run()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        ensure!(!output.status.success(), "it started without {missing}: {said}");
        ensure!(said.contains(missing), "the message does not name {missing}: {said}");
        ensure!(!said.contains("panicked"), "{said}");
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
