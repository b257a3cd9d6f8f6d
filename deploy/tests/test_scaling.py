"""What happens to data when the number of shard nodes changes: the chart rendered beside a stand-in for Kubernetes, which
says how many there are now."""

import json
import re

import pytest
from conftest import Refused, one, parse, pod_of, render, render_text
from stand_in import kubernetes


def upgrade(tmp_path, now: int | None, values: dict) -> list[dict]:
    """What an upgrade to `values` would do where there are `now` shard pods."""
    with kubernetes(tmp_path, now) as kubeconfig:
        text = render_text(json.dumps(values), "--is-upgrade", "--dry-run=server", "--kubeconfig", kubeconfig)
    return parse(text)


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


def test_pods_that_go_are_drained_before_the_upgrade(tmp_path):
    [(name, job)] = jobs(upgrade(tmp_path, 5, {"shard": {"replicas": 3}})).items()
    assert name == "omma-drain" and job["on"] == "pre-upgrade,pre-rollback"
    assert (job["ACTION"], job["FROM"], job["PODS"]) == ("drain", "3", "omma-shard")
    assert int(job["BELOW"]) > 5


def test_other_upgrades_ask_the_cluster_nothing(tmp_path):
    assert {name: job["on"] for name, job in jobs(upgrade(tmp_path, 3, {})).items()} == {"omma-drain": "pre-rollback"}


def test_whoever_comes_back_to_a_revision_drains_what_it_has_not(tmp_path):
    for objects in (render(), upgrade(tmp_path, 3, {}), upgrade(tmp_path, 2, {})):
        drain = jobs(objects)["omma-drain"]
        assert (drain["on"], drain["FROM"]) == ("pre-rollback", "3")


def test_pods_that_come_back_are_used_again(tmp_path):
    job = jobs(upgrade(tmp_path, 3, {"shard": {"replicas": 5}}))["omma-undrain"]
    assert job["on"] == "post-upgrade"
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
    assert jobs(render())["omma-drain"]["on"] == "pre-rollback", "nothing to drain when a release begins"
    [(name, job)] = jobs(render(None, "--is-upgrade")).items()
    assert name == "omma-drain" and job["FROM"] == "3" and job["on"] == "pre-upgrade,pre-rollback"


def test_the_script_is_the_chart_s(tmp_path):
    script = one(render(None, "--is-upgrade"), "ConfigMap", "omma-drain")["data"]["scale.sh"]
    assert re.match(r"#!/bin/sh\n", script) and "omma cluster" in script
