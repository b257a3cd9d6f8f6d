//! What this coordinator shows on its admin port.

use omma_common::admin::Subject;
use omma_common::metrics::Scrape;

use crate::api::Coordinator;

impl Subject for Coordinator {
    /// It has nothing to read.
    fn starting(&self) -> Option<String> {
        None
    }

    /// With a map, and a shard node that answers, it can forward: each answer says what could not be reached.
    fn unready(&self) -> Option<String> {
        self.routing.useless()
    }

    fn scrape(&self, out: &mut Scrape) {
        let (length, limit) = self.occupancy();
        let labels = [("queue", "requests")];
        out.gauge("omma_queue_length", "What waits in a queue, or is being worked on.", &labels, length as f64);
        out.gauge("omma_queue_limit", "Beyond this the queue refuses.", &labels, limit as f64);
        let delay = self.hedge.now().as_secs_f64();
        out.gauge("omma_hedge_delay_seconds", "Wait for one replica before a second one is asked.", &[], delay);
        let map = self.routing.watch().borrow().clone();
        let known = f64::from(u8::from(map.is_some()));
        out.gauge("omma_cluster_map_known", "1 if this coordinator has a cluster map.", &[], known);
        let Some(map) = map else { return };
        out.gauge("omma_cluster_map_version", "Version of the metadata in use.", &[], map.version as f64);
        if let Some(age) = self.routing.age() {
            let help = "Since a shard node last told the cluster map.";
            out.gauge("omma_cluster_map_age_seconds", help, &[], age.as_secs_f64());
        }
        for (id, node) in &map.nodes {
            let Ok(client) = self.routing.client(&node.address) else { continue };
            let (peer, (calls, failures)) = (id.to_string(), client.totals());
            let labels = [("peer", &*peer)];
            let help = "Calls to a shard node under way.";
            out.gauge("omma_node_calls_in_flight", help, &labels, client.in_flight() as f64);
            out.counter("omma_node_calls_total", "Calls to a shard node that ended.", &labels, calls as f64);
            let help = "Those that could not reach it, or were given up.";
            out.counter("omma_node_call_failures_total", help, &labels, failures as f64);
        }
    }
}
