//! Attacks on the public port, one after the other, while a polite client works beside them: what came back, what it
//! cost, and that the neighbour was not hurt. Prints the table of `docs/security.md`.
//!
//! Hostile pictures are in `hostile.rs`, certificates in `security.rs`, tokens and keys in the coordinator's tests.

mod connections;
mod messages;
mod neighbour;
mod pictures;
#[path = "../../../coordinator/tests/support/raw.rs"]
mod raw;
mod strangers;

use std::time::Duration;

use anyhow::Result;
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::folders::{shared_data, target_folder};

use connections::{
    CONNECTIONS, MANY_CONNECTIONS, MOST_CONNECTIONS, allow_many_connections, idle_connections, rubbish, silent_streams,
    unread_streams,
};
use messages::{
    deep_filters, endless_messages, halves, huge_headers, long_name, many_queries, oversize, reflection, replay,
    tiny_parts, whole,
};
use neighbour::{attack, prepared};
use pictures::{BOMBS, bomb, hostile, nested};
use strangers::{JWKS, expired, peer_port, unsigned, wrong_name};

const COLLECTION: &str = "attacked";
/// Of the shard node, in MiB: told to it, and not to be passed.
const NODE_MEMORY: u64 = 1024;
/// Memory for requests at the coordinator, in MiB; one client gets half.
const ARRIVING: usize = 128;
/// Until an answer has to begin.
const REQUEST: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn attacks_cost_the_attacker_and_not_the_neighbour() -> Result<()> {
    allow_many_connections()?;
    let (connections, arriving, memory) = (CONNECTIONS.to_string(), ARRIVING.to_string(), NODE_MEMORY.to_string());
    let request = REQUEST.as_secs().to_string();
    // Attackers and neighbour have one address.
    let mut flags = vec!["--max-connections", &connections, "--max-percent-per-address", "100"];
    flags.extend(["--idle-stream-seconds", "2"]);
    flags.extend(["--max-arriving-mib", &arriving, "--max-request-seconds", &request]);
    let options =
        ClusterOptions::single("attacks").coordinator_flags(&flags).shard_flags(&["--memory-limit-mib", &memory]);
    let cluster = Cluster::start(options).await?;
    let client = prepared(&cluster).await?;
    let quiet = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok("".into())
    };
    attack(&cluster, "none", "nothing", quiet).await?;
    attack(&cluster, "silent streams", "200 ingest streams without a message", silent_streams(&client)).await?;
    attack(&cluster, "unread streams", "50 ingest streams whose answers are not read", unread_streams(&cluster))
        .await?;
    attack(&cluster, "slow loris", "100 requests of 16 MiB, of which one byte comes", endless_messages(&cluster))
        .await?;
    attack(&cluster, "halves", "20 messages of 30 MiB, of which 8 MiB come", halves(&cluster)).await?;
    attack(
        &cluster,
        "tiny parts",
        "messages of 30 MiB of empty queries, values of a filter, images",
        tiny_parts(&client),
    )
    .await?;
    attack(&cluster, "wholes", "40 puts of 15 MiB at once", whole(&client)).await?;
    attack(&cluster, "huge headers", "headers of 1 MiB", huge_headers(&client)).await?;
    let idle = idle_connections(&cluster, MANY_CONNECTIONS);
    attack(&cluster, "idle connections", "2,000 connections that say nothing", idle).await?;
    attack(&cluster, "rubbish", "5,000 connections with 200 random bytes", rubbish(&cluster)).await?;
    attack(&cluster, "reflection abuse", "1,000 requests of unknown files with long names", reflection(&client))
        .await?;
    attack(&cluster, "oversize message", "a picture of 40 MiB", oversize(&client)).await?;
    attack(&cluster, "oversize field", "an attribute's name of 8 MiB", long_name(&client)).await?;
    attack(&cluster, "too many parts", "a batch of 100,000 empty queries", many_queries(&client)).await?;
    attack(&cluster, "deep filter", "filters 9, 60 and 100,000 levels deep", deep_filters(&cluster)).await?;
    attack(&cluster, "replay", "a request id again, and for other images", replay(&client)).await?;
    attack(&cluster, "nested profiles", "20 pictures with profiles in profiles", nested(&client)).await?;
    if let Some(folder) = shared_data("malformed/synthetic") {
        for (name, sent, file) in BOMBS {
            attack(&cluster, name, sent, bomb(&client, &folder.join(file))).await?;
        }
        attack(&cluster, "hostile pictures", "all synthetic ones, 8 at once", hostile(&client, &folder)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "half a minute"]
async fn ten_thousand_idle_connections_do_not_hurt_the_neighbour() -> Result<()> {
    allow_many_connections()?;
    let connections = CONNECTIONS.to_string();
    let flags = ["--max-connections", &connections, "--max-percent-per-address", "100"];
    let options = ClusterOptions::single("idle").coordinator_flags(&flags);
    let cluster = Cluster::start(options).await?;
    prepared(&cluster).await?;
    let idle = idle_connections(&cluster, MOST_CONNECTIONS);
    attack(&cluster, "idle connections", "10,000 connections that say nothing", idle).await
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cost_themselves_and_not_the_neighbour() -> Result<()> {
    let folder = target_folder()?.join("cluster-logs/strangers-jwks");
    std::fs::create_dir_all(&folder)?;
    let jwks = folder.join("jwks.json");
    std::fs::write(&jwks, JWKS)?;
    let jwks = jwks.display().to_string();
    let flags = ["--jwt-issuer", "https://id", "--jwt-audience", "omma", "--jwt-jwks", &jwks];
    let cluster = Cluster::start(ClusterOptions::single("strangers").secured().coordinator_flags(&flags)).await?;
    prepared(&cluster).await?;
    attack(
        &cluster,
        "client at the peer port",
        "300 connections: plaintext, TLS without a certificate",
        peer_port(&cluster),
    )
    .await?;
    attack(&cluster, "expired certificate", "100 handshakes with a node's, over since yesterday", expired(&cluster))
        .await?;
    attack(&cluster, "wrong name", "a node's certificate for another host, dialled 100 times", wrong_name(&cluster))
        .await?;
    attack(&cluster, "alg none", "500 calls with an unsigned token of all roles", unsigned(&cluster)).await?;
    Ok(())
}
