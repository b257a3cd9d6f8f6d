"""Every object against Kubernetes' own schemas, strictly: unknown fields are errors."""

import kubernetes_validate
import pytest

VERSIONS = ["1.28", "1.31", "1.34", "1.37"]
# Kinds of others, which those schemas do not have.
FOREIGN = {"monitoring.coreos.com/v1": {"ServiceMonitor", "PrometheusRule"}, "cert-manager.io/v1": {"Issuer", "Certificate"}}


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_would_take_it(objects, version):
    checked = 0
    for thing in objects:
        if thing["kind"] in FOREIGN.get(thing["apiVersion"], ()):
            continue
        kubernetes_validate.validate(thing, version, strict=True)
        checked += 1
    assert checked > 8


def test_a_wrong_field_is_noticed(objects):
    thing = next(o for o in objects if o["kind"] == "StatefulSet")
    broken = thing | {"spec": thing["spec"] | {"podManagmentPolicy": "Parallel"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_names_are_unique(objects):
    """But for what hooks of one moment leave to those of another."""
    moment = lambda o: o["metadata"].get("annotations", {}).get("helm.sh/hook")
    names = [(o["kind"], o["metadata"]["name"], moment(o)) for o in objects]
    assert len(names) == len(set(names))
