//! What this node shows on its admin port.

use omma_common::admin::Subject;
use omma_common::ids::{GroupId, METADATA_GROUP, NodeId};
use omma_common::metrics::Scrape;
use omma_proto::internal::v1::Metadata;

use super::{Node, Shard, disk};
use crate::group::Replica;
use crate::images::ImageState;
use crate::metrics::{APPLIED_ENTRIES, REPLAYED_IMAGES};
use crate::room::Room;

impl Node {
    /// Shard groups that the cluster map gives this node.
    fn assigned(&self) -> Vec<GroupId> {
        let metadata = self.metadata.current();
        metadata.groups.iter().filter(|g| g.replicas.contains(&self.node_id)).map(|g| g.group_id).collect()
    }

    fn replicas(&self) -> Vec<Replica> {
        let shards = self.shards().into_iter().map(|shard| shard.replica);
        std::iter::once(self.metadata_replica.clone()).chain(shards).collect()
    }

    fn unopened(&self) -> Option<String> {
        let assigned = self.assigned();
        let open = assigned.iter().filter(|group| self.shard(**group).is_some()).count();
        (open < assigned.len()).then(|| {
            let (images, entries) = (REPLAYED_IMAGES.get(), APPLIED_ENTRIES.get());
            format!("{open} of {} replicas open; read {images} images and {entries} log entries", assigned.len())
        })
    }
}

impl Subject for Node {
    /// A replica is open when its graph is loaded, its tail is filled and its committed log is applied again.
    fn starting(&self) -> Option<String> {
        self.unopened()
    }

    fn unready(&self) -> Option<String> {
        let metadata = self.metadata.current();
        if !metadata.nodes.iter().any(|node| node.node_id == self.node_id) {
            return Some("not a member of a cluster yet".to_owned());
        }
        let replicas = self.replicas();
        let failed = || replicas.iter().find_map(Replica::failure).map(|error| error.to_string());
        let behind = || {
            let (group, lag) = replicas.iter().find_map(|r| Some((r.group(), r.catching_up()?)))?;
            Some(format!("catching up: group {group} has {lag} log entries to go"))
        };
        self.unopened().or_else(failed).or_else(|| successor_of(&metadata, self.node_id)).or_else(behind)
    }

    fn scrape(&self, out: &mut Scrape) {
        for replica in self.replicas() {
            raft(out, &replica, self.node_id);
        }
        for Shard { replica, state } in self.shards() {
            images(out, &replica.group().to_string(), &state);
        }
        self.queues(out);
        for ((group, peer), differs) in self.comparisons.lock().iter() {
            let labels = [("group", &*group.to_string()), ("peer", &*peer.to_string())];
            let help = "1 if the peer's replica differed from the leader's when they were last compared.";
            out.gauge("omma_replica_differs", help, &labels, f64::from(u8::from(*differs)));
        }
        for store in ["raft", "state"] {
            let bytes = disk::usage(&self.config.data_dir.join(store));
            out.gauge("omma_store_bytes", "Disk space that a store takes.", &[("store", store)], bytes as f64);
        }
        room(out, &self.config.room);
        let member = self.metadata.current().nodes.iter().any(|node| node.node_id == self.node_id);
        let (id, zone) = (self.node_id.to_string(), &*self.config.zone);
        let labels = [("node", &*id), ("zone", zone), ("device", &*self.encoder.info().device)];
        let help = "1 if this node belongs to a cluster; its labels say which node it is.";
        out.gauge("omma_node_info", help, &labels, f64::from(u8::from(member)));
    }
}

/// A node that began anew has nothing until it was given the replicas of the one that it was: to stop another node before
/// that could leave a group without a majority, or an image without a copy.
fn successor_of(metadata: &Metadata, node_id: NodeId) -> Option<String> {
    let address = &metadata.nodes.iter().find(|node| node.node_id == node_id)?.address;
    let before = metadata.nodes.iter().filter(|node| node.node_id != node_id && node.address == *address);
    let before: Vec<NodeId> = before.map(|node| node.node_id).collect();
    let waiting = metadata.groups.iter().filter(|g| g.replicas.iter().any(|id| before.contains(id))).count();
    (waiting > 0).then(|| format!("takes the place of a node whose data is lost: {waiting} replicas to go"))
}

/// What a node is that waits for room before it opens its stores.
pub(super) struct WaitsForRoom(pub(super) Room);

impl Subject for WaitsForRoom {
    fn starting(&self) -> Option<String> {
        Some("waiting for room on the disk".to_owned())
    }

    fn unready(&self) -> Option<String> {
        self.starting()
    }

    fn scrape(&self, out: &mut Scrape) {
        room(out, &self.0);
    }
}

fn room(out: &mut Scrape, room: &Room) {
    if let Some(free) = room.free() {
        out.gauge("omma_disk_free_bytes", "Room on the data folder's disk.", &[], free as f64);
    }
    let help = "Room below which new images are refused.";
    out.gauge("omma_disk_kept_free_bytes", help, &[], room.kept() as f64);
}

impl Node {
    fn queues(&self, out: &mut Scrape) {
        let proposals = self.replicas().iter().map(Replica::proposals).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let queues = [
            ("encoder", self.encoder.occupancy()),
            ("proposals", proposals),
            ("log", self.host.log_queue()),
            ("reads", self.reads.waiting()),
        ];
        for (queue, (length, limit)) in queues {
            let labels = [("queue", queue)];
            out.gauge("omma_queue_length", "What waits in a queue, or is being worked on.", &labels, length as f64);
            out.gauge("omma_queue_limit", "Beyond this the queue refuses.", &labels, limit as f64);
        }
    }
}

fn raft(out: &mut Scrape, replica: &Replica, node_id: NodeId) {
    let state = replica.status();
    let group = &*state.group.to_string();
    let mut gauge = |name, help, value: u64| out.gauge(name, help, &[("group", group)], value as f64);
    gauge("omma_raft_term", "Raft's term.", state.term);
    let help = "1 if this replica leads its group and heard from a majority within two election timeouts.";
    gauge("omma_raft_leader", help, u64::from(replica.leads()));
    // Those that run are held against the number of voters: learners do not count.
    if state.voters.contains(&node_id) {
        let help = "1 if this voter runs, 0 if its log or state failed; its process then ends.";
        gauge("omma_raft_running", help, u64::from(replica.failure().is_none()));
    }
    gauge("omma_raft_voters", "Voters of the group.", state.voters.len() as u64);
    gauge("omma_raft_last_log_index", "Last entry of this replica's log.", state.last_log);
    gauge("omma_raft_committed_index", "Last entry known to be committed.", state.committed);
    gauge("omma_raft_applied_index", "Last entry applied here.", state.applied);
    for (peer, matched) in replica.followers() {
        let labels = [("group", group), ("peer", &*peer.to_string())];
        let help = "Entries that a follower has yet to get, as its leader knows.";
        out.gauge("omma_raft_follower_lag_entries", help, &labels, state.last_log.saturating_sub(matched) as f64);
    }
}

fn images(out: &mut Scrape, group: &str, state: &ImageState) {
    debug_assert_ne!(group, METADATA_GROUP.to_string());
    let stats = state.stats();
    let mut gauge = |name, help, value: f64| out.gauge(name, help, &[("group", group)], value);
    gauge("omma_images", "Images of this replica.", stats.images as f64);
    gauge("omma_index_graph_images", "Images in HNSW graphs, tombstones among them.", stats.graph as f64);
    gauge("omma_index_tail_images", "Images that wait for a graph and are searched exactly.", stats.tail as f64);
    gauge("omma_index_tombstones", "Dead images in graphs.", stats.tombstones as f64);
    gauge("omma_index_memory_bytes", "Memory of graphs and tails.", state.index_memory_bytes() as f64);
    gauge("omma_checkpoint_unsaved_images", "Images in graphs that no checkpoint covers.", stats.unsaved as f64);
    if let Some(age) = stats.checkpoint_age {
        let help = "Since this process last wrote a checkpoint; absent before the first.";
        gauge("omma_checkpoint_age_seconds", help, age.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use omma_proto::internal::v1::{Group, Node as Listed};

    use super::*;

    #[test]
    fn who_began_anew_is_not_ready_before_it_has_what_it_had() {
        let node = |node_id, address: &str| Listed { node_id, address: address.to_owned(), ..Listed::default() };
        let group = |replicas: &[NodeId]| Group { replicas: replicas.to_vec(), ..Group::default() };
        let mut metadata = Metadata {
            nodes: vec![node(1, "a"), node(2, "b"), node(3, "b"), node(4, "c")],
            groups: vec![group(&[1, 2, 4]), group(&[1, 3, 4])],
            ..Metadata::default()
        };
        assert!(successor_of(&metadata, 3).is_some_and(|why| why.contains("1 replicas")));
        assert_eq!(
            (successor_of(&metadata, 1), successor_of(&metadata, 4), successor_of(&metadata, 9)),
            (None, None, None)
        );
        metadata.groups[0] = group(&[1, 3, 4]);
        assert_eq!(successor_of(&metadata, 3), None);
    }
}
