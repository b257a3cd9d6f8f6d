"""What the tests share: the chart rendered by the real helm, once for each set of values."""

import functools
import json
import os
import pathlib
import shutil
import subprocess

import pytest
import yaml


# Several times faster, where PyYAML was built with it.
class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Takes no key twice: so two objects look that nothing separates."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key is there twice: {keys}, {node.start_mark}"
        return super().construct_mapping(node, deep)


ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"
# The newest Kubernetes that the chart is rendered for; the validated ones are in test_schemas.py.
KUBERNETES = "1.34.0"


class Refused(Exception):
    """Helm did not render; the text is what it said."""


@functools.cache
def render_text(values: str, *flags: str, chart: pathlib.Path = CHART, release: str = "omma") -> str:
    """What helm prints for `values`, which are JSON. Skips the test where there is no helm."""
    helm = os.environ.get("HELM") or shutil.which("helm")
    if not helm:
        pytest.skip("helm is not there")
    command = [helm, "template", release, str(chart), "--namespace", "search"]
    command += ["--kube-version", KUBERNETES, "--values", "-", *flags]
    done = subprocess.run(command, input=values, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise Refused(done.stderr)
    return done.stdout


def render(values: dict | None = None, *flags: str, **more) -> list[dict]:
    """The chart's objects, hooks and tests among them, with `values` on top of the defaults."""
    return parse(render_text(json.dumps(values or {}), *flags, **more))


def parse(text: str) -> list[dict]:
    """The objects in helm's output."""
    return [document for document in yaml.load_all(text, Loader) if document]


def one(objects: list[dict], kind: str, name: str) -> dict:
    """The object of that kind and name."""
    found = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind} {name} in {[(o['kind'], o['metadata']['name']) for o in objects]}"
    return found[0]


def pod_of(thing: dict) -> dict | None:
    """The pod template of an object, as {metadata, spec}; None if it has none."""
    if thing["kind"] == "Pod":
        return thing
    return thing.get("spec", {}).get("template") if thing["kind"] in ("Deployment", "StatefulSet", "Job") else None


def is_hook(thing: dict) -> bool:
    return "helm.sh/hook" in thing["metadata"].get("annotations", {})


GPU = {"shard": {"gpu": {"enabled": True, "runtimeClassName": "nvidia", "count": 2}}}
PLAIN = {"tls": {"enabled": False}, "auth": {"enabled": False}}
EXISTING = {
    "tls": {"source": "existing", "existing": {"public": "a", "coordinator": "b", "shard": "c"}},
    "auth": {"existingSecret": "keys"},
}
MONITORED = {
    "monitoring": {name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "dashboards")},
    "telemetry": {"otlpEndpoint": "http://collector.monitoring:4317", "logJson": False},
}
# Sets of values that between them turn every switch.
MATRIX = {
    "default": {},
    "plain": PLAIN,
    "existing secrets": EXISTING,
    "cert-manager": {"tls": {"source": "certManager", "extraNames": ["search.example.com"]}},
    "cert-manager, own issuer": {"tls": {"source": "certManager", "certManager": {"issuer": "x", "kind": "ClusterIssuer"}}},
    "gpu": GPU,
    "monitored": MONITORED,
    "five replicas": {"cluster": {"replication": 5, "groups": 10}, "shard": {"replicas": 5}},
    "one of each": {
        "cluster": {"replication": 1, "groups": 1},
        "shard": {"replicas": 1, "podDisruptionBudget": {"enabled": False}},
        "coordinator": {"replicas": 1},
    },
    "autoscaled": {"coordinator": {"autoscaling": {"enabled": True}, "service": {"type": "LoadBalancer", "port": 443}}},
    "no extras": {
        "networkPolicy": {"enabled": False},
        "zoneSpread": {"enabled": False},
        "coordinator": {"podDisruptionBudget": {"enabled": False}},
        "shard": {"podDisruptionBudget": {"enabled": False}, "scaleDown": "unsafe"},
    },
    "everything else": {
        "fullnameOverride": "eyes",
        "bindAddress": "[::]",
        "image": {"registry": "registry.example.com/team/", "tag": "1.2.3", "pullSecrets": ["pull"]},
        "coordinator": {
            "extraArgs": ["--max-requests=9"],
            "extraEnv": [{"name": "A", "value": "b"}],
            "nodeSelector": {"a": "b"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "podAnnotations": {"a": "b"},
            "service": {"annotations": {"a": "b"}},
        },
        "shard": {
            "extraArgs": ["--max-tail=9"],
            "extraEnv": [{"name": "A", "value": "b"}],
            "nodeSelector": {"a": "b"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "podAnnotations": {"a": "b"},
            "persistence": {"storageClass": "fast", "whenDeleted": "Delete", "whenScaled": "Delete"},
            "model": {"volume": {"persistentVolumeClaim": {"claimName": "clip"}}, "folder": "clip"},
        },
        "networkPolicy": {
            "clients": [{"namespaceSelector": {"matchLabels": {"team": "shop"}}}],
            "metrics": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            "extraEgress": [{"ports": [{"protocol": "TCP", "port": 9000}]}],
        },
    },
}
# An upgrade renders what an install does not.
WAYS = {"install": (), "upgrade": ("--is-upgrade",)}


@pytest.fixture(params=[(name, way) for name in MATRIX for way in WAYS], ids=lambda p: f"{p[0]}, {p[1]}")
def objects(request) -> list[dict]:
    """The chart, for each set of values of the matrix, installed and upgraded."""
    name, way = request.param
    return render(MATRIX[name], *WAYS[way])
