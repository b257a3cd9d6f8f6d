//! The power fails: everything that was not synced is gone. What was acknowledged was.
//!
//! Real nodes on an ext4 file system in a file, which EXT4_IOC_SHUTDOWN makes forget what is not on "disk". That takes
//! root; SKIPPED elsewhere. The proof that this test can fail is in `broken.rs`.

use anyhow::Result;
use omma_integration_tests::cluster::ClusterOptions;
use omma_integration_tests::disks::can_mount;
use omma_integration_tests::note;
use omma_integration_tests::power::lost_in_power_failures;
use omma_integration_tests::vectors::seed;

const FAILURES: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_power_failures() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let seed = seed("power_loss");
    let (acknowledged, lost) = lost_in_power_failures(ClusterOptions::single("power_loss"), seed, FAILURES).await?;
    note!("{FAILURES} power failures: {acknowledged} acknowledged, {} lost", lost.len());
    anyhow::ensure!(lost.is_empty(), "lost: {lost:?}");
    Ok(())
}
