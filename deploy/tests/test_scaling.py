"""What happens to data when the number of shard nodes changes: the chart rendered beside a stand-in for Kubernetes, which
says how many there are now."""

import json
import re

import pytest
from conftest import Refused, one, parse, pod_of, render, render_text
from stand_in import kubernetes, shard_pods


def note_of(ordinal: int) -> dict:
    metadata = {"name": "omma-drained", "namespace": "search"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"from": str(ordinal)}}


def upgrade(tmp_path, now: int | None, values: dict, note: int | None = None) -> list[dict]:
    """What an upgrade to `values` would do where there are `now` shard pods, and a note of those that were drained."""
    there = ([] if now is None else [shard_pods(now)]) + ([] if note is None else [note_of(note)])
    with kubernetes(tmp_path, *there) as kubeconfig:
        text = render_text(json.dumps(values), "--is-upgrade", "--dry-run=server", "--kubeconfig", kubeconfig)
    return parse(text)


def jobs(objects: list[dict], name: str = "drain") -> dict[str, dict]:
    """The hooks that drain, or undrain, by name, with their environment."""
    found = {}
    for thing in objects:
        if thing["kind"] == "Job" and thing["metadata"]["name"].endswith(f"-{name}"):
            [container] = pod_of(thing)["spec"]["containers"]
            environment = {e["name"]: e.get("value") for e in container["env"]}
            environment["on"] = thing["metadata"]["annotations"]["helm.sh/hook"]
            found[thing["metadata"]["name"]] = environment
    return found


def undrain(objects: list[dict]) -> dict:
    return jobs(objects, "undrain")["omma-undrain"]


def notes(objects: list[dict]) -> dict[str, tuple[int, int]]:
    """From which ordinal on pods are noted as drained, and with which weight, by when that is."""
    found = {}
    for thing in objects:
        if thing["metadata"]["name"] == "omma-drained":
            hook = thing["metadata"]["annotations"]
            assert hook["helm.sh/hook-delete-policy"] == "before-hook-creation", "it must stay"
            found[hook["helm.sh/hook"]] = (int(thing["data"]["from"]), int(hook["helm.sh/hook-weight"]))
    return found


AFTER = "post-upgrade,post-rollback"


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
    objects = upgrade(tmp_path, 3, {"shard": {"replicas": 5}})
    assert undrain(objects)["on"] == AFTER
    assert (undrain(objects)["ACTION"], undrain(objects)["BELOW"], undrain(objects)["NOTE"]) == ("undrain", "5", "/drained/from")
    before, after = notes(objects)["pre-upgrade"], notes(objects)[AFTER]
    assert (before[0], after[0]) == (3, 5)
    assert before[1] < -5 and after[1] > 0, "before anything is drained, and after everything is undrained"


def test_what_undrains_reads_the_note(tmp_path):
    objects = upgrade(tmp_path, 3, {"shard": {"replicas": 5}})
    spec = pod_of(one(objects, "Job", "omma-undrain"))["spec"]
    [volume] = [v for v in spec["volumes"] if v["name"] == "drained"]
    assert volume["configMap"] == {"name": "omma-drained", "optional": True}, "there is none before the first upgrade"
    assert {"name": "drained", "mountPath": "/drained", "readOnly": True} in spec["containers"][0]["volumeMounts"]


def test_a_scale_down_that_was_given_up_is_taken_back(tmp_path):
    begun = upgrade(tmp_path, 5, {"shard": {"replicas": 3}})
    assert notes(begun)["pre-upgrade"][0] == 3, "noted before the first is drained"
    # Its hook was interrupted, or what came after it failed: five pods are still there.
    for wanted in (5, 3, 4):
        again = upgrade(tmp_path, 5, {"shard": {"replicas": wanted}}, note=3)
        drain = jobs(again)["omma-drain"]
        assert drain["on"].startswith("pre-upgrade") and drain["FROM"] == str(wanted), "takes the place of one that is still at it"
        assert ("post-upgrade" in undrain(again)["on"]) == (wanted > 3), wanted
        assert notes(again)["pre-upgrade"][0] == 3, "not forgotten if this one fails, too"
        assert notes(again)[AFTER][0] == wanted


def test_rollbacks_take_back_what_was_drained_since(tmp_path):
    """As --atomic does: by the hooks of the revision that it goes back to."""
    for objects in (render({"shard": {"replicas": 5}}), upgrade(tmp_path, 5, {"shard": {"replicas": 5}}, note=5)):
        assert undrain(objects)["on"] == "post-rollback" and undrain(objects)["BELOW"] == "5"
        assert all("pre-rollback" not in on for on in notes(objects)), "it would overwrite the note before it is read"


def test_what_somebody_else_has_drained_stays_drained(tmp_path):
    objects = upgrade(tmp_path, 5, {"shard": {"replicas": 5}}, note=5)
    assert "post-upgrade" not in undrain(objects)["on"]
    assert notes(objects)["pre-upgrade"][0] == 5


def test_an_install_that_failed_leaves_nothing_to_drain(tmp_path):
    objects = upgrade(tmp_path, None, {})
    assert jobs(objects)["omma-drain"]["on"] == "pre-rollback" and undrain(objects)["on"] == "post-rollback"


def test_fewer_pods_are_refused_with_what_to_run(tmp_path):
    values = {"shard": {"replicas": 3, "scaleDown": "refuse"}}
    says = "omma cluster drain.*omma-shard-4.omma-shard-peers.search.svc:7701"
    with pytest.raises(Refused, match=says):
        upgrade(tmp_path, 5, values)
    for now in (3, 2, None):
        assert {} == jobs(upgrade(tmp_path, now, values))


def test_whoever_says_unsafe_gets_it(tmp_path):
    assert jobs(upgrade(tmp_path, 5, {"shard": {"scaleDown": "unsafe"}})) == {}


def test_without_a_look_at_the_cluster_each_upgrade_drains_what_goes():
    assert jobs(render())["omma-drain"]["on"] == "pre-rollback", "nothing to drain when a release begins"
    objects = render(None, "--is-upgrade")
    [(name, job)] = jobs(objects).items()
    assert name == "omma-drain" and job["FROM"] == "3" and job["on"] == "pre-upgrade,pre-rollback"
    assert undrain(objects)["on"] == AFTER
    assert list(notes(objects)) == [AFTER], "what the note says is not known: it is not overwritten before it is read"


def test_the_script_is_the_chart_s(tmp_path):
    script = one(render(None, "--is-upgrade"), "ConfigMap", "omma-drain")["data"]["scale.sh"]
    assert re.match(r"#!/bin/sh\n", script) and "omma cluster" in script
