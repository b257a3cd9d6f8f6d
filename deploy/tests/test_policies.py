"""What must hold for every object, whatever the values."""

import re

from conftest import is_hook, one, pod_of, render


def pods(objects):
    return [(o["metadata"]["name"], pod_of(o)) for o in objects if pod_of(o)]


def servers(objects):
    return [o for o in objects if o["kind"] in ("Deployment", "StatefulSet")]


def test_pods_run_without_rights(objects):
    for name, pod in pods(objects):
        spec = pod["spec"]
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True and security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not any(spec.get(k) for k in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace")), name
        assert spec["enableServiceLinks"] is False, name
        for container in spec["containers"] + spec.get("initContainers", []):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert not security.get("privileged"), name
        for volume in spec.get("volumes", []):
            assert "hostPath" not in volume, name
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"], name


def test_only_the_hook_that_makes_secrets_reaches_kubernetes(objects):
    with_token = {name for name, pod in pods(objects) if pod["spec"]["automountServiceAccountToken"]}
    assert all(name.endswith("-credentials") for name in with_token)
    for role in (o for o in objects if o["kind"] in ("Role", "ClusterRole")):
        assert role["kind"] == "Role" and is_hook(role)
        for rule in role["rules"]:
            assert rule["resources"] == ["secrets"] and set(rule["verbs"]) <= {"create", "get"}
            assert rule["verbs"] == ["create"] or rule["resourceNames"], "secrets of others must stay unread"


def test_images_are_named_by_version(objects):
    for name, pod in pods(objects):
        for container in pod["spec"]["containers"]:
            tag = re.fullmatch(r"(?:[^:]+/)?omma-[a-z-]+:([\w.-]+)", container["image"])
            assert tag and tag.group(1) not in ("latest", "main", "master"), f"{name}: {container['image']}"


def test_every_container_says_what_it_needs(objects):
    for name, pod in pods(objects):
        for container in pod["spec"]["containers"]:
            resources = container["resources"]
            assert resources["requests"]["cpu"] and resources["requests"]["memory"], name
            assert resources["limits"]["memory"], name
            assert "cpu" not in resources["limits"], f"{name}: throttling costs latency"


def test_three_probes_with_three_meanings(objects):
    for server in servers(objects):
        container = pod_of(server)["spec"]["containers"][0]
        paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
        assert paths == {"startup": "/startupz", "liveness": "/livez", "readiness": "/readyz"}
        assert {p["name"] for p in container["ports"]} >= {"admin"}
        liveness = container["livenessProbe"]
        assert liveness["failureThreshold"] * liveness["periodSeconds"] >= 60, "a stalled disk must not kill a pod"


def test_pods_end_gracefully(objects):
    for server in servers(objects):
        spec = pod_of(server)["spec"]
        wait = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert wait[0] == "sleep" and int(wait[1]) + 10 < spec["terminationGracePeriodSeconds"]


def test_selectors_find_their_pods(objects):
    labels = [pod["metadata"]["labels"] for _, pod in pods(objects)]

    def found(selector):
        return [pod for pod in labels if selector.items() <= pod.items()]

    for thing in objects:
        spec = thing.get("spec", {})
        if thing["kind"] in ("Deployment", "StatefulSet"):
            assert found(spec["selector"]["matchLabels"]) == [pod_of(thing)["metadata"]["labels"]]
        elif thing["kind"] == "Service":
            assert found(spec["selector"]), thing["metadata"]["name"]
        elif thing["kind"] == "PodDisruptionBudget":
            assert len(found(spec["selector"]["matchLabels"])) == 1
        elif thing["kind"] == "NetworkPolicy":
            assert found(spec["podSelector"]["matchLabels"]), thing["metadata"]["name"]


def test_names_that_are_referred_to_are_there(objects):
    """ConfigMaps always; secrets unless they are made by hooks, cert-manager or the user."""
    configs = {o["metadata"]["name"] for o in objects if o["kind"] == "ConfigMap"}
    accounts = {o["metadata"]["name"] for o in objects if o["kind"] == "ServiceAccount"} | {None}
    for name, pod in pods(objects):
        spec = pod["spec"]
        used = {v["configMap"]["name"] for v in spec.get("volumes", []) if "configMap" in v}
        for container in spec["containers"]:
            keys = (e.get("valueFrom", {}).get("configMapKeyRef") for e in container.get("env", []))
            used |= {key["name"] for key in keys if key}
            mounted = {m["name"] for m in container.get("volumeMounts", [])}
            claims = {"data"} if name.endswith("-shard") else set()
            assert mounted == {v["name"] for v in spec.get("volumes", [])} | claims, name
        assert used <= configs, name
        assert spec.get("serviceAccountName") in accounts, name


def moments(thing: dict) -> set[str]:
    """When a hook is there; empty for what is part of the release."""
    return set(filter(None, thing["metadata"].get("annotations", {}).get("helm.sh/hook", "").split(",")))


def weight(thing: dict) -> int:
    return int(thing["metadata"]["annotations"]["helm.sh/hook-weight"])


def in_force(policy: dict, pod_owner: dict) -> bool:
    """Whether a policy is there when a pod begins."""
    if not moments(policy):
        # Part of the release: not there yet before the first install.
        return "pre-install" not in moments(pod_owner)
    return moments(pod_owner) <= moments(policy) and weight(policy) < weight(pod_owner)


def test_pods_reach_what_they_need_where_policies_close_everything(objects):
    policies = [o for o in objects if o["kind"] == "NetworkPolicy"]
    needs = {"coordinator": 7701, "shard": 7701, "cli": 7700, "credentials": 6443}
    for owner in (o for o in objects if pod_of(o) and policies):
        labels = pod_of(owner)["metadata"]["labels"]
        mine = [p for p in policies if p["spec"]["podSelector"]["matchLabels"].items() <= labels.items() and in_force(p, owner)]
        assert mine, owner["metadata"]["name"]
        assert all(set(p["spec"]["policyTypes"]) == {"Ingress", "Egress"} for p in mine)
        rules = [rule for p in mine for rule in p["spec"]["egress"]]
        open_to = {(port["protocol"], port["port"]) for rule in rules for port in rule["ports"]}
        component = labels["app.kubernetes.io/component"]
        assert open_to >= {("UDP", 53), ("TCP", 53), ("TCP", needs[component])}, owner["metadata"]["name"]
        # Its partner lets it in, if it is one of ours.
        for partner in (p for p in policies if needs[component] in (7700, 7701) and p["spec"].get("ingress")):
            for rule in partner["spec"]["ingress"]:
                if {"protocol": "TCP", "port": needs[component]} in rule["ports"] and "from" in rule:
                    selectors = [f["podSelector"]["matchLabels"] for f in rule["from"] if f.keys() == {"podSelector"}]
                    assert any(s.items() <= labels.items() for s in selectors), owner["metadata"]["name"]


def test_nobody_reaches_hooks(objects):
    for policy in (o for o in objects if o["kind"] == "NetworkPolicy"):
        if policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] in ("cli", "credentials"):
            assert "ingress" not in policy["spec"], policy["metadata"]["name"]


def test_the_peer_port_is_closed_to_strangers():
    policy = one(render(), "NetworkPolicy", "omma-shard")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    [peer] = [rule for rule in policy["ingress"] if {"protocol": "TCP", "port": 7701} in rule["ports"]]
    components = [f["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for f in peer["from"]]
    assert sorted(components) == ["coordinator", "shard"]
    assert all(f.keys() == {"podSelector"} for f in peer["from"]), "of this namespace only"
    assert all(f["podSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "omma" for f in peer["from"])
    assert all("from" in rule and rule["from"] for rule in policy["ingress"]), "no rule may be open to all"


def test_one_shard_pod_at_a_time_may_be_evicted():
    assert one(render(), "PodDisruptionBudget", "omma-shard")["spec"]["maxUnavailable"] == 1
