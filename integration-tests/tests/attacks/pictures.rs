//! Pictures that are small, and would be large.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use futures::StreamExt;
use omma_integration_tests::client::{Client, picture_image};
use omma_integration_tests::nested::nested_profiles;
use tonic::Code;

use super::COLLECTION;

/// Attack, what is sent, the file.
pub(crate) const BOMBS: [(&str, &str, &str); 5] = [
    ("bomb of pixels", "50 PNGs of 109 KB that say 30,000 x 30,000", "bomb_30000x30000_1bit_a.png"),
    ("bomb of pixels, GIF", "50 GIFs of 35 bytes that say 65,535 x 65,535", "bomb.gif"),
    ("bomb of text", "50 PNGs whose zTXt chunk inflates to 64 MiB", "ztxt_bomb.png"),
    ("bomb of a profile", "50 PNGs whose ICC profile inflates to 96 MiB", "iccp_bomb.png"),
    ("bomb of frames", "50 GIFs of 500 frames", "anim_500_frames.gif"),
];

pub(crate) async fn hostile(client: &Client, folder: &Path) -> Result<String> {
    let mut files: Vec<_> = std::fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    files.sort();
    let n = files.len();
    let put = |path: PathBuf| async move {
        let bytes = std::fs::read(&path).unwrap_or_default().into();
        client.put(COLLECTION, vec![picture_image("h", bytes)]).await
    };
    let answers: Vec<_> = futures::stream::iter(files).map(put).buffer_unordered(8).collect().await;
    let refused = answers
        .iter()
        .filter(|a| match a {
            Ok(answer) => answer.results.iter().any(|r| r.error.as_ref().is_some_and(|e| e.code != 0)),
            Err(_) => true,
        })
        .count();
    let broken = answers.iter().filter(|a| a.as_ref().is_err_and(|s| s.code() != Code::InvalidArgument)).count();
    ensure!(broken == 0, "{:?}", answers.iter().filter_map(|a| a.as_ref().err()).collect::<Vec<_>>());
    Ok(format!("of {n} files {refused} refused, each by itself"))
}

pub(crate) async fn bomb(client: &Client, file: &Path) -> Result<String> {
    let picture = Bytes::from(std::fs::read(file)?);
    let put = |_| client.put(COLLECTION, vec![picture_image("h", picture.clone())]);
    let answers: Vec<_> = futures::stream::iter(0..50).map(put).buffer_unordered(8).collect().await;
    let mut seen = BTreeMap::<String, usize>::new();
    for answer in answers {
        let refused = match answer {
            Ok(answer) => answer.results.into_iter().find_map(|r| r.error.filter(|e| e.code != 0)).map(|e| e.message),
            Err(status) => {
                ensure!(status.code() == Code::InvalidArgument, "{status:?}");
                Some(status.message().to_owned())
            }
        };
        *seen.entry(refused.unwrap_or_else(|| "stored".into())).or_default() += 1;
    }
    Ok(seen.into_iter().map(|(what, n)| format!("{n} × {what}")).collect::<Vec<_>>().join("; "))
}

pub(crate) async fn nested(client: &Client) -> Result<String> {
    let mut answers = Vec::new();
    for (what, picture) in nested_profiles()? {
        let put = |_| client.put(COLLECTION, vec![picture_image("n", picture.clone())]);
        let (mut stored, mut refused) = (0, 0);
        for answer in futures::stream::iter(0..4).map(put).buffer_unordered(2).collect::<Vec<_>>().await {
            match answer {
                Ok(answer) => match answer.results.iter().all(|r| r.error.as_ref().is_none_or(|e| e.code == 0)) {
                    true => stored += 1,
                    false => refused += 1,
                },
                Err(status) if status.code() == Code::InvalidArgument => refused += 1,
                Err(status) => bail!("{what}: {status:?}"),
            }
        }
        answers.push(format!("{what}: {stored} stored, {refused} refused"));
    }
    Ok(answers.join("; "))
}
