"""The real helm installs, upgrades and rolls back, beside stand-ins for Kubernetes and for the cluster of shard nodes: which
nodes are drained in the end, whatever went wrong in between."""

import json
import os
import pathlib
import shutil
import subprocess

import pytest
from conftest import CHART, PLAIN, pod_of
from stand_in import Kubernetes, path_of, serving

pytestmark = [
    pytest.mark.skipif(not (os.environ.get("HELM") or shutil.which("helm")), reason="helm is not there"),
    pytest.mark.skipif(not shutil.which("jq"), reason="jq is not there"),
]

# Knows the nodes' states. Drains at once, unless it is to be cut off: then the node is being drained still.
OMMA = r"""#!/usr/bin/env python3
import json, os, pathlib, sys
nodes, cut_off = pathlib.Path(os.environ["NODES"]), os.environ.get("CUT_OFF")
states = json.loads(nodes.read_text())
address = lambda n: f"omma-shard-{n}.omma-shard-peers.search.svc:7701"
if "status" in sys.argv:
    print(json.dumps({"nodes": [{"address": address(n), "state": state} for n, state in states.items()]}))
else:
    [ordinal] = [n for n in states if address(n) == sys.argv[3]]
    states[ordinal] = {"undrain": "active", "drain": "draining" if cut_off else "drained"}[sys.argv[2]]
    nodes.write_text(json.dumps(states))
    sys.exit(1 if cut_off and sys.argv[2] == "drain" else 0)
"""


class Cluster:
    """A release in a stand-in for Kubernetes, whose jobs run as they are begun."""

    def __init__(self, folder: pathlib.Path, kubeconfig: str, world: Kubernetes):
        self.folder, self.kubeconfig, self.world = folder, kubeconfig, world
        self.nodes = folder / "nodes.json"
        self.nodes.write_text("{}")
        (folder / "omma").write_text(OMMA)
        (folder / "omma").chmod(0o755)
        # Whether drains are interrupted, and how often pods cannot be changed.
        self.cut_off, self.broken = False, 0
        self.ran: list[str] = []
        world.on_change = self.on_change

    def on_change(self, thing: dict):
        if thing["kind"] == "StatefulSet":
            self.broken -= 1
            if self.broken >= 0:
                raise RuntimeError("the API server is broken")
            states = self.states()
            joined = {n: states.get(n, "active") for n in range(thing["spec"]["replicas"])}
            self.nodes.write_text(json.dumps(states | joined))
        elif thing["kind"] == "Job":
            done = self.run(thing)
            self.ran.append(thing["metadata"]["name"].removeprefix("omma-"))
            thing["status"] = {"conditions": [{"type": "Complete" if done else "Failed", "status": "True"}]}

    def run(self, job: dict) -> bool:
        [container] = pod_of(job)["spec"]["containers"]
        environment = {e["name"]: e["value"] for e in container["env"]}
        note = self.world.get("ConfigMap", "omma-drained")
        if "NOTE" in environment:
            environment["NOTE"] = str(self.folder / "note")
            (self.folder / "note").unlink(missing_ok=True)
            if note:
                (self.folder / "note").write_text(note["data"]["from"])
        script = self.world.get("ConfigMap", job["metadata"]["name"])["data"]["scale.sh"]
        environment |= {"PATH": f"{self.folder}:{os.environ['PATH']}", "WORK": str(self.folder), "NODES": str(self.nodes)}
        environment |= {"CUT_OFF": "yes"} if self.cut_off else {}
        return subprocess.run(["sh", "-c", script], env=environment, capture_output=True, timeout=60).returncode == 0

    def states(self) -> dict[int, str]:
        return {int(n): state for n, state in json.loads(self.nodes.read_text()).items()}

    def drained(self) -> list[int]:
        return [n for n, state in sorted(self.states().items()) if state != "active"]

    def by_hand(self, ordinal: int):
        self.nodes.write_text(json.dumps(self.states() | {ordinal: "drained"}))

    def helm(self, *arguments: str, fails: bool = False) -> str:
        self.ran.clear()
        command = [os.environ.get("HELM", "helm"), *arguments, "--kubeconfig", self.kubeconfig, "--namespace", "search"]
        home = {name: str(self.folder) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "HOME")}
        done = subprocess.run(command, env=os.environ | home, capture_output=True, text=True, timeout=300)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stderr

    def to(self, shards: int, *flags: str, fails: bool = False) -> str:
        """Installs or upgrades to so many shard nodes."""
        values = self.folder / "values.json"
        values.write_text(json.dumps(PLAIN | {"shard": {"replicas": shards}}))
        more = ("--install", "--disable-openapi-validation", "--values", str(values), *flags)
        return self.helm("upgrade", "omma", str(CHART), *more, fails=fails)


@pytest.fixture
def cluster(tmp_path):
    world = Kubernetes()
    with serving(world, tmp_path) as kubeconfig:
        yield Cluster(tmp_path, kubeconfig, world)


def test_nodes_go_and_come_back(cluster):
    cluster.to(5)
    assert cluster.ran == [] and cluster.drained() == []
    cluster.to(3)
    assert cluster.ran == ["drain"] and cluster.drained() == [3, 4]
    cluster.to(3)
    assert cluster.ran == [] and cluster.drained() == [3, 4], "other upgrades ask nothing"
    cluster.to(4)
    assert cluster.ran == ["undrain"] and cluster.drained() == [4]
    cluster.helm("rollback", "omma", "1")
    assert cluster.drained() == []
    cluster.helm("rollback", "omma", "2")
    assert cluster.drained() == [3, 4]


@pytest.mark.parametrize("wanted", [5, 4, 3])
def test_an_interrupted_drain_is_taken_back_or_finished(cluster, wanted):
    cluster.to(5)
    cluster.cut_off = True
    cluster.to(3, fails=True)
    assert cluster.states()[4] == "draining"
    cluster.cut_off = False
    cluster.to(wanted)
    assert cluster.drained() == list(range(wanted, 5))


def test_an_upgrade_that_fails_after_the_drain_is_taken_back(cluster):
    cluster.to(5)
    for wanted in (3, 4):
        cluster.broken = 1
        cluster.to(wanted, fails=True)
        assert cluster.drained() == [3, 4]
    cluster.to(5)
    assert cluster.drained() == []


@pytest.mark.parametrize("fault", [{"cut_off": True}, {"broken": 1}], ids=str)
def test_so_does_the_rollback_that_helm_makes_by_itself(cluster, fault):
    cluster.to(5)
    vars(cluster).update(fault)
    cluster.to(3, "--atomic", "--timeout", "20s", fails=True)
    assert cluster.ran == ["drain", "drain", "undrain"] and cluster.drained() == []


def test_what_somebody_has_drained_by_hand_stays_so(cluster):
    cluster.to(5)
    cluster.by_hand(1)
    cluster.cut_off = True
    cluster.to(3, fails=True)
    cluster.cut_off = False
    cluster.to(5)
    assert cluster.drained() == [1]
    cluster.by_hand(4)
    cluster.to(5)
    assert cluster.drained() == [1, 4]


def test_larger_disks_are_refused_until_the_set_of_pods_is_made_anew(cluster):
    def size(wanted: str, **more) -> str:
        return cluster.to(3, "--set", f"shard.persistence.size={wanted}", **more)

    def now() -> str:
        [disk] = cluster.world.get("StatefulSet", "omma-shard", "apps/v1")["spec"]["volumeClaimTemplates"]
        return disk["spec"]["resources"]["requests"]["storage"]

    size("20Gi")
    assert "cannot be made smaller" in size("10Gi", fails=True)
    said = size("2Ti", fails=True)
    assert "patch pvc data-omma-shard-0" in said and "delete statefulset omma-shard --cascade=orphan" in said
    assert now() == "20Gi" and cluster.ran == []
    size("20480Mi")
    set_of_pods = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "omma-shard"}}
    del cluster.world.objects[path_of(set_of_pods)]
    size("2Ti")
    assert now() == "2Ti" and cluster.drained() == []
    size("2Ti")
