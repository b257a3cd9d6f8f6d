//! One trace from the client to the disk, over real processes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use omma_client::{Omma, SearchOptions, image_from_picture, query};
use omma_common::telemetry::{self, TelemetryConfig};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::collector::{Collector, Span, children, tree};
use omma_integration_tests::note;
use omma_integration_tests::pictures::{draw, png};

const COLLECTION: &str = "traces";
/// Servers send spans every five seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// Clocks of one machine agree, but each span is rounded by itself.
const SLACK_NANOS: u64 = 2_000_000;

const CLIENT: &str = "client";
const COORDINATOR: &str = "omma-coordinator";
const SHARD: &str = "omma-shard";

/// The only child of that name, made by that process, within its parent's time.
fn child<'s>(spans: &'s [Span], parent: &Span, service: &str, name: &str) -> Result<&'s Span> {
    let found = children(spans, parent, name);
    ensure!(found.len() == 1, "{} children {name:?} of {:?}", found.len(), parent.name);
    within(found[0], parent, service)
}

fn within<'s>(span: &'s Span, parent: &Span, service: &str) -> Result<&'s Span> {
    ensure!(span.service == service, "{:?} is of {}, not of {service}", span.name, span.service);
    let inside = span.start + SLACK_NANOS >= parent.start && span.end <= parent.end + SLACK_NANOS;
    ensure!(inside && span.start <= span.end, "{:?} is not within {:?}", span.name, parent.name);
    Ok(span)
}

fn root<'s>(spans: &'s [Span], name: &str) -> Result<&'s Span> {
    let roots = spans.iter().filter(|s| s.service == CLIENT && s.name == name && s.parent.is_empty());
    roots.max_by_key(|s| s.start).with_context(|| format!("no trace begins with {name:?}"))
}

fn encoder_works(spans: &[Span], rpc: &Span) -> Result<()> {
    let encode = child(spans, rpc, SHARD, "encode")?;
    for step in ["decode queue", "decode", "inference queue", "inference"] {
        child(spans, encode, SHARD, step)?;
    }
    Ok(())
}

/// Client, coordinator, encoder, leader, log, fsync, apply.
fn write_is_whole(spans: &[Span]) -> Result<()> {
    let root = root(spans, "PutImages")?;
    let public = child(spans, root, COORDINATOR, "omma.v1.ImageService/PutImages")?;
    let call = child(spans, public, COORDINATOR, "put_images")?;
    let leader = child(spans, call, SHARD, "omma.internal.v1.ShardService/PutImages")?;
    encoder_works(spans, leader)?;
    let propose = child(spans, leader, SHARD, "propose")?;
    let append = child(spans, propose, SHARD, "raft append")?;
    let queue = child(spans, propose, SHARD, "log queue")?;
    let fsync = child(spans, propose, SHARD, "log fsync")?;
    let apply = child(spans, propose, SHARD, "apply")?;
    ensure!(append.start <= queue.start && queue.start <= fsync.start && append.start <= apply.start, "out of order");
    ensure!(fsync.attributes.iter().any(|(name, n)| name == "entries" && n != "0"), "{:?}", fsync.attributes);
    Ok(())
}

/// Client, coordinator, encoder, and the leader of each group.
fn search_is_whole(spans: &[Span], groups: usize) -> Result<()> {
    let root = root(spans, "Search")?;
    let public = child(spans, root, COORDINATOR, "omma.v1.SearchService/Search")?;
    let call = child(spans, public, COORDINATOR, "encode_picture")?;
    encoder_works(spans, child(spans, call, SHARD, "omma.internal.v1.ShardService/EncodePicture")?)?;
    let calls = children(spans, public, "search_group");
    ensure!(calls.len() == groups, "{} of {groups} groups were asked", calls.len());
    for call in calls {
        let leader =
            child(spans, within(call, public, COORDINATOR)?, SHARD, "omma.internal.v1.ShardService/SearchGroup")?;
        for step in ["read barrier", "search"] {
            child(spans, leader, SHARD, step)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_reaches_from_the_client_to_the_disk() -> Result<()> {
    let collector = Collector::start().await?;
    // What the servers record is decided by who asks them.
    let options =
        ClusterOptions::named("traces").flags(&["--otlp-endpoint", collector.endpoint(), "--trace-sample", "0"]);
    let cluster = Cluster::start(options).await?;
    let quiet = cluster.client()?;
    quiet.create(COLLECTION, None).await?;
    let telemetry = telemetry::init(&TelemetryConfig {
        service: CLIENT,
        filter: "off".to_owned(),
        json: false,
        otlp_endpoint: Some(collector.endpoint().to_owned()),
        sample: 1.0,
    })?;

    let omma = Omma::connect(cluster.address()?).await?;
    let picture = png(&draw(7, 320, 240))?;
    let error = omma.search("nowhere", query::picture(picture.clone(), 3), &SearchOptions::default()).await.err();
    let failed = error.context("there is such a collection")?;
    let trace_id = failed.metadata("trace_id").map(str::to_owned).context("the error names no trace")?;
    // The first of each opens connections, and is not typical.
    for id in ["warm", "cat"] {
        let outcomes =
            omma.put_images(COLLECTION, vec![image_from_picture(id, png(&draw(id.len() as u64, 320, 240))?)]).await?;
        outcomes[0].result.clone()?;
        let found = omma.search(COLLECTION, query::picture(picture.clone(), 3), &SearchOptions::default()).await?;
        ensure!(!found.hits.is_empty(), "nothing was found");
    }
    let groups = cluster.shape().groups;
    tokio::task::block_in_place(|| telemetry.flush());
    let spans = collector
        .wait(PATIENCE, |spans| {
            write_is_whole(spans)?;
            search_is_whole(spans, groups)?;
            ensure!(
                spans.iter().any(|s| s.trace == trace_id && s.service == COORDINATOR),
                "the error's trace is not there"
            );
            Ok(())
        })
        .await?;
    // Requests without a trace of their own, of which there were some, left nothing.
    let begun_here = |s: &&Span| s.parent.is_empty() && s.service != CLIENT;
    ensure!(spans.iter().find(begun_here).is_none(), "a server began a trace:\n{}", tree(&spans));
    for name in ["PutImages", "Search"] {
        let trace = &root(&spans, name)?.trace;
        let own: Vec<Span> = spans.iter().filter(|s| s.trace == *trace).cloned().collect();
        note!("trace of {name}: start, duration (ms), span (process)\n{}", tree(&own));
    }
    Ok(())
}
