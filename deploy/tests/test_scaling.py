"""What happens to data when the number of shard nodes changes: the chart rendered beside a stand-in for Kubernetes, which
says how many there are now."""

import http.server
import json
import os
import re
import subprocess
import threading

import pytest
import yaml
from conftest import CHART, KUBERNETES, Refused, one, pod_of, render


class Kubernetes(http.server.BaseHTTPRequestHandler):
    """Knows one StatefulSet, or none."""

    replicas: int | None = None

    def do_GET(self):
        path = self.path.split("?")[0]
        answers = {
            "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
            "/apis": {
                "kind": "APIGroupList",
                "groups": [
                    {
                        "name": "apps",
                        "versions": [{"groupVersion": "apps/v1", "version": "v1"}],
                        "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"},
                    }
                ],
            },
            "/apis/apps/v1": {
                "kind": "APIResourceList",
                "groupVersion": "apps/v1",
                "resources": [{"name": "statefulsets", "kind": "StatefulSet", "namespaced": True, "verbs": ["get"]}],
            },
        }
        if self.replicas is not None:
            answers["/apis/apps/v1/namespaces/search/statefulsets/omma-shard"] = {
                "apiVersion": "apps/v1",
                "kind": "StatefulSet",
                "metadata": {"name": "omma-shard", "namespace": "search"},
                "spec": {"replicas": self.replicas},
            }
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(answers.get(path, missing)).encode()
        self.send_response(200 if path in answers else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def upgrade(tmp_path, now: int | None, values: dict) -> list[dict]:
    """What an upgrade to `values` would do where there are `now` shard pods."""
    handler = type("Now", (Kubernetes,), {"replicas": now})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "x", "cluster": {"server": url}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "users": [{"name": "x", "user": {}}],
        "current-context": "x",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    command = [os.environ.get("HELM", "helm"), "template", "omma", str(CHART), "--namespace", "search", "--is-upgrade"]
    command += ["--kube-version", KUBERNETES, "--dry-run=server", "--kubeconfig", str(tmp_path / "kubeconfig"), "--values", "-"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    try:
        done = subprocess.run(
            command, input=json.dumps(values), env=environment, capture_output=True, text=True, timeout=60
        )
    finally:
        server.shutdown()
        server.server_close()
    if done.returncode != 0:
        raise Refused(done.stderr)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def jobs(objects: list[dict]) -> dict[str, dict]:
    """The hooks that drain or undrain, by name, with their environment."""
    found = {}
    for thing in objects:
        if thing["kind"] == "Job" and "drain" in thing["metadata"]["name"]:
            [container] = pod_of(thing)["spec"]["containers"]
            environment = {e["name"]: e.get("value") for e in container["env"]}
            environment["on"] = thing["metadata"]["annotations"]["helm.sh/hook"]
            found[thing["metadata"]["name"]] = environment
    return found


@pytest.fixture(autouse=True)
def helm():
    render()  # Skips where there is no helm.


def test_pods_that_go_are_drained_before_the_upgrade(tmp_path):
    [(name, job)] = jobs(upgrade(tmp_path, 5, {"shard": {"replicas": 3}})).items()
    assert name == "omma-drain" and job["on"] == "pre-upgrade"
    assert (job["ACTION"], job["FROM"], job["PODS"]) == ("drain", "3", "omma-shard")
    assert int(job["BELOW"]) > 5


def test_other_upgrades_ask_the_cluster_nothing(tmp_path):
    assert jobs(upgrade(tmp_path, 3, {})) == {}


def test_pods_that_come_back_are_used_again(tmp_path):
    [(name, job)] = jobs(upgrade(tmp_path, 3, {"shard": {"replicas": 5}})).items()
    assert name == "omma-undrain" and job["on"] == "post-upgrade"
    assert (job["ACTION"], job["FROM"], job["BELOW"]) == ("undrain", "3", "5")


def test_fewer_pods_are_refused_with_what_to_run(tmp_path):
    values = {"shard": {"replicas": 3, "scaleDown": "refuse"}}
    says = "omma cluster drain.*omma-shard-4.omma-shard-peers.search.svc:7701"
    with pytest.raises(Refused, match=says):
        upgrade(tmp_path, 5, values)
    for now in (3, 2, None):
        assert "omma-drain" not in jobs(upgrade(tmp_path, now, values))


def test_whoever_says_unsafe_gets_it(tmp_path):
    assert jobs(upgrade(tmp_path, 5, {"shard": {"scaleDown": "unsafe"}})) == {}


def test_without_a_look_at_the_cluster_each_upgrade_drains_what_goes():
    assert jobs(render()) == {}, "nothing to drain when a release begins"
    [(name, job)] = jobs(render(None, "--is-upgrade")).items()
    assert name == "omma-drain" and job["FROM"] == "3"


def test_the_script_is_the_chart_s(tmp_path):
    script = one(render(None, "--is-upgrade"), "ConfigMap", "omma-drain")["data"]["scale.sh"]
    assert re.match(r"#!/bin/sh\n", script) and "omma cluster" in script
