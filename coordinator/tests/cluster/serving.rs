//! What a coordinator says of the cluster and of itself, and what it refuses.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use omma_common::error::{Reason, reason_of};
use omma_proto::v1 as pb;
use tonic::Code;

use crate::clients::{Clients, direction, ready, vector};
use crate::support::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn the_status_lists_everybody() {
    let (cluster, mut clients) = ready().await;
    cluster.script(3).down.store(true, Ordering::SeqCst);
    let status = clients.cluster.get_cluster_status(pb::GetClusterStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.cluster_id, "cluster");
    assert_eq!(status.nodes.iter().map(|n| n.reachable).collect::<Vec<_>>(), [true, true, false]);
    assert!(status.nodes.iter().all(|n| !n.address.is_empty() && n.zone == "z"));
    assert_eq!(
        status.groups.iter().map(|g| (g.group_id, g.leader_node_id)).collect::<Vec<_>>(),
        [(0, 1), (1, 1), (2, 2), (3, 3)]
    );
    assert!(status.groups.iter().all(|g| g.agreement == pb::Agreement::Equal as i32));
    assert_eq!(status.groups[1].replicas.iter().filter(|r| r.reachable).count(), 2);
    assert_eq!(status.vector_space.unwrap().id, "omma-enc-test");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_waits_for_the_cluster_and_reflection_names_the_public_services() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let mut cluster = Cluster::start_with(|config| config.poll_interval = Duration::from_millis(50)).await;
    let clients = Clients::of(&cluster);
    let mut health = HealthClient::new(clients.channel.clone());
    for service in ["", "omma.v1.SearchService", "omma.v1.ImageService"] {
        let request = HealthCheckRequest { service: service.into() };
        let begun = Instant::now();
        while health.check(request.clone()).await.unwrap().into_inner().status != ServingStatus::Serving as i32 {
            assert!(begun.elapsed() < Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(clients.channel.clone());
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([list])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list")
    };
    let names: BTreeSet<_> = list.service.into_iter().map(|s| s.name).collect();
    assert!(names.contains("omma.v1.SearchService") && names.contains("grpc.health.v1.Health"), "{names:?}");
    assert!(!names.iter().any(|n| n.contains("internal")), "{names:?}");

    cluster.trigger.take().unwrap().fire();
    drop((health, reflection, answers, clients));
    let ended = tokio::time::timeout(Duration::from_secs(15), &mut cluster.coordinator).await;
    ended.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cluster_requests_are_told_so() {
    let cluster = Cluster::start_with(|config| config.shard_nodes = vec!["127.0.0.1:1".into()]).await;
    let mut clients = Clients::of(&cluster);
    let error = clients.put(vec![vector("a", [1.0; 4])]).await.unwrap_err();
    assert_eq!((error.code(), reason_of(&error)), (Code::Unavailable, Some(Reason::ClusterForming)));
    let mut health = tonic_health::pb::health_client::HealthClient::new(clients.channel.clone());
    let status = health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap().into_inner().status;
    assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::NotServing as i32);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_are_refused_with_a_hint_to_retry() {
    let cluster = Cluster::start_with(|config| config.limits.requests = 1).await;
    let mut clients = Clients::of(&cluster);
    clients.create("c").await;
    *cluster.script(1).delay.lock() = Duration::from_secs(1);
    let id = cluster.id_in(1, 0);
    let slow = {
        let mut clients = Clients::of(&cluster);
        tokio::spawn(async move { clients.put(vec![vector(&id, [1.0; 4])]).await })
    };
    while cluster.script(1).puts.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let error = clients.find(direction([1.0; 4]), |_| {}).await.unwrap_err();
    assert_eq!(reason_of(&error), Some(Reason::Overloaded));
    assert!(tonic_types::StatusExt::get_details_retry_info(&error).is_some());
    slow.await.unwrap().unwrap();
}
