"""What the chart makes of its values."""

import json
import re
import shutil

import pytest
import yaml
from conftest import CHART, EXISTING, GPU, MATRIX, MONITORED, PLAIN, Refused, one, parse, pod_of, render, render_text
from stand_in import kubernetes


def env_of(thing: dict) -> dict:
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in pod_of(thing)["spec"]["containers"][0]["env"]}


def shard(values=None, *flags) -> dict:
    return next(o for o in render(values, *flags) if o["kind"] == "StatefulSet")


def coordinator(values=None) -> dict:
    return next(o for o in render(values) if o["kind"] == "Deployment")


def test_shard_nodes_find_each_other():
    objects = render({"shard": {"replicas": 4}})
    peers = one(objects, "ConfigMap", "omma-shard-peers")["data"]["peers"].split(",")
    assert peers == [f"omma-shard-{n}.omma-shard-peers.search.svc:7701" for n in range(4)]
    service = one(objects, "Service", "omma-shard-peers")["spec"]
    assert service["publishNotReadyAddresses"] is True and service["clusterIP"] == "None"
    thing = shard()
    assert thing["spec"]["podManagementPolicy"] == "Parallel"
    assert thing["spec"]["serviceName"] == "omma-shard-peers"
    advertised = env_of(thing)["OMMA_ADVERTISE"].replace("$(POD_NAME)", "omma-shard-0")
    assert advertised == peers[0]


def test_coordinators_ask_ready_nodes_only():
    service = one(render(), "Service", "omma-shard")["spec"]
    assert service["clusterIP"] == "None" and "publishNotReadyAddresses" not in service
    assert env_of(coordinator())["OMMA_SHARD_NODES"] == "omma-shard.search.svc:7701"


def test_scaling_does_not_restart_the_pods_that_stay():
    assert pod_of(shard({"shard": {"replicas": 3}})) == pod_of(shard({"shard": {"replicas": 4}}))
    assert pod_of(coordinator({"shard": {"replicas": 3}})) == pod_of(coordinator({"shard": {"replicas": 4}}))


def test_a_new_version_of_the_chart_alone_restarts_nothing():
    for thing in (coordinator(), shard()):
        assert not [name for name in pod_of(thing)["metadata"]["labels"] if "version" in name or "chart" in name]


def test_certificates_fit_the_addresses():
    certificates = {
        o["metadata"]["name"]: o["spec"]
        for o in render({"tls": {"source": "certManager", "extraNames": ["search.example.com"]}})
        if o["kind"] == "Certificate"
    }
    assert certificates["omma-shard"]["uris"] == ["omma://shard"]
    assert certificates["omma-coordinator"]["uris"] == ["omma://coordinator"]
    assert "uris" not in certificates["omma-public"]
    assert set(certificates["omma-shard"]["dnsNames"]) == {"*.omma-shard-peers.search.svc", "omma-shard.search.svc"}
    assert {"omma.search.svc", "localhost", "search.example.com"} <= set(certificates["omma-public"]["dnsNames"])
    for certificate in certificates.values():
        assert certificate["issuerRef"]["name"] in ("omma-ca", "omma-self-signed")


def test_an_issuer_of_ones_own_signs_the_public_certificate_only():
    objects = render(MATRIX["cert-manager, own issuer"])
    issuers = {o["metadata"]["name"]: o["spec"]["issuerRef"]["name"] for o in objects if o["kind"] == "Certificate"}
    assert issuers == {"omma-ca": "omma-self-signed", "omma-public": "x", "omma-coordinator": "omma-ca", "omma-shard": "omma-ca"}


def test_authorities_of_others_are_not_asked_to_sign_for_localhost():
    values = {"tls": {"source": "certManager", "certManager": {"issuer": "x"}}}
    [public] = [o["spec"] for o in render(values) if o["kind"] == "Certificate" and o["metadata"]["name"] == "omma-public"]
    assert "localhost" not in public["dnsNames"] and "omma.search.svc" in public["dnsNames"]
    values["tls"]["extraNames"] = ["localhost", "omma"]
    [public] = [o["spec"] for o in render(values) if o["kind"] == "Certificate" and o["metadata"]["name"] == "omma-public"]
    assert sorted(public["dnsNames"]).count("omma") == 1 and "localhost" in public["dnsNames"], "if somebody says so"


def beside(tmp_path, values: dict, *there: dict) -> list[dict]:
    """The chart as it is installed where there are these objects."""
    with kubernetes(tmp_path, *there) as kubeconfig:
        look = ("--dry-run=server", "--kubeconfig", kubeconfig, "--api-versions", "cert-manager.io/v1")
        return parse(render_text(json.dumps(values), *look))


def issuer(kind: str, spec: dict) -> dict:
    return {"apiVersion": "cert-manager.io/v1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}


def secret(name: str, *keys: str) -> dict:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {key: "eA==" for key in keys}}


def test_an_issuer_that_cannot_sign_for_names_inside_of_kubernetes_is_refused(tmp_path):
    for kind in ("Issuer", "ClusterIssuer"):
        values = {"tls": {"source": "certManager", "certManager": {"issuer": "x", "kind": kind}}}
        with pytest.raises(Refused, match="speaks ACME"):
            beside(tmp_path, values, issuer(kind, {"acme": {"server": "https://acme.example.com"}}))
        beside(tmp_path, values, issuer(kind, {"ca": {"secretName": "authority"}}))
        beside(tmp_path, values)


def test_secrets_without_what_pods_mount_are_refused(tmp_path):
    whole = [secret(name, "tls.crt", "tls.key", "ca.crt") for name in "abc"]
    keys = secret("keys", "keys", "admin")
    beside(tmp_path, EXISTING, *whole, keys)
    beside(tmp_path, EXISTING)
    with pytest.raises(Refused, match="The secret a has no ca.crt"):
        beside(tmp_path, EXISTING, secret("a", "tls.crt", "tls.key"), *whole[1:], keys)
    with pytest.raises(Refused, match="The secret c has no tls.key"):
        beside(tmp_path, EXISTING, *whole[:2], secret("c", "tls.crt", "ca.crt"), keys)
    with pytest.raises(Refused, match="The secret keys has no admin"):
        beside(tmp_path, EXISTING, *whole, secret("keys", "keys"))
    with pytest.raises(Refused, match="The secret omma-tls-public has no ca.crt"):
        beside(tmp_path, MATRIX["cert-manager, own issuer"], secret("omma-tls-public", "tls.crt", "tls.key"))


def test_plain_text_is_asked_for_by_name():
    for thing in (coordinator(PLAIN), shard(PLAIN)):
        env = env_of(thing)
        assert env["OMMA_INSECURE_PLAINTEXT"] == "true" and not any("TLS" in name for name in env)
    for thing in (coordinator(), shard()):
        assert "OMMA_INSECURE_PLAINTEXT" not in env_of(thing)
    assert "OMMA_API_KEYS" not in env_of(coordinator(PLAIN))


@pytest.mark.parametrize("name", ["coordinator", "shard"])
def test_certificates_are_mounted_where_flags_say(name):
    spec = pod_of({"coordinator": coordinator, "shard": shard}[name]())["spec"]
    mounts = {m["mountPath"]: m for m in spec["containers"][0]["volumeMounts"]}
    for variable, path in env_of({"kind": "Pod", "spec": spec}).items():
        if variable.endswith(("_CERT", "_KEY", "_CA", "_KEYS")):
            folder = path.rsplit("/", 1)[0]
            assert mounts[folder]["readOnly"] is True, variable
    secrets = {v["name"]: v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v}
    assert secrets["tls-peer"] == f"omma-tls-{name}"


def test_the_public_key_stays_with_coordinators():
    for thing in render():
        pod = pod_of(thing)
        for volume in pod["spec"].get("volumes", []) if pod else []:
            if volume.get("secret", {}).get("secretName") == "omma-tls-public" and thing["kind"] != "Deployment":
                assert [item["key"] for item in volume["secret"]["items"]] == ["ca.crt"], thing["metadata"]["name"]


def test_existing_secrets_are_used_and_none_are_made():
    objects = render(EXISTING)
    assert not [o for o in objects if o["metadata"]["name"].endswith("-credentials")]
    text = yaml.safe_dump(objects)
    assert "omma-tls-" not in text and "omma-api-keys" not in text
    volumes = {v["name"]: v["secret"]["secretName"] for v in pod_of(coordinator(EXISTING))["spec"]["volumes"] if "secret" in v}
    assert volumes == {"tls-public": "a", "tls-peer": "b", "api-keys": "keys"}


def test_gpus():
    spec = pod_of(shard(GPU))["spec"]
    container = spec["containers"][0]
    assert container["image"].startswith("omma-shard-cuda:")
    assert container["resources"]["limits"] == {"memory": "4Gi", "nvidia.com/gpu": 2}
    assert spec["runtimeClassName"] == "nvidia"
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert env_of(shard(GPU))["OMMA_DEVICE"] == "cuda:0"
    assert "tolerations" not in pod_of(shard())["spec"]


def test_pods_spread_by_default():
    for thing in (coordinator(), shard()):
        spec = pod_of(thing)["spec"]
        [spread] = spec["topologySpreadConstraints"]
        assert spread["topologyKey"] == "topology.kubernetes.io/zone" and spread["whenUnsatisfiable"] == "ScheduleAnyway"
        [away] = spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        assert away["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    zone = env_of(shard())["OMMA_ZONE"]["fieldRef"]["fieldPath"]
    assert zone == "metadata.labels['topology.kubernetes.io/zone']"


def test_a_zone_of_ones_own_is_the_only_one():
    values = {"zoneSpread": {"topologyKey": "rack"}, "shard": {"extraEnv": [{"name": "OMMA_ZONE", "value": "r1"}]}}
    thing = shard(values)
    variables = [e for e in pod_of(thing)["spec"]["containers"][0]["env"] if e["name"] == "OMMA_ZONE"]
    assert variables == [{"name": "OMMA_ZONE", "value": "r1"}]
    assert pod_of(thing)["spec"]["topologySpreadConstraints"][0]["topologyKey"] == "rack"
    region = env_of(shard({"zoneSpread": {"topologyKey": "topology.kubernetes.io/region"}}))["OMMA_ZONE"]
    assert region["fieldRef"]["fieldPath"] == "metadata.labels['topology.kubernetes.io/region']"


@pytest.mark.parametrize(
    ("limit", "mib"),
    [("4Gi", "2048"), ("1.5Gi", "768"), (4294967296, "2048"), ("4G", "1907"), ("2097152Ki", "1024"), ("1Gi", "512")],
)
def test_the_plan_for_memory_follows_from_the_limit(limit, mib):
    thing = shard({"shard": {"resources": {"limits": {"memory": limit}}}})
    assert env_of(thing)["OMMA_MEMORY_LIMIT_MIB"] == mib
    assert not [a for a in pod_of(thing)["spec"]["containers"][0]["args"] if "cache" in a], "as does the cache"


def test_memory_is_shared_out_as_the_user_says():
    for said in (
        {"extraArgs": ["--memory-limit-mib=700"]},
        {"extraArgs": ["--memory-limit-mib", "700"], "resources": {"limits": {"memory": "768Mi"}}},
        {"resources": {"limits": {"memory": None}}},
    ):
        assert "OMMA_MEMORY_LIMIT_MIB" not in env_of(shard({"shard": said})), said
    thing = shard({"shard": {"extraEnv": [{"name": "OMMA_MEMORY_LIMIT_MIB", "value": "700"}], "cacheMib": 100}})
    values = [e["value"] for e in pod_of(thing)["spec"]["containers"][0]["env"] if e["name"] == "OMMA_MEMORY_LIMIT_MIB"]
    assert values == ["700"]
    assert "--cache-mib=100" in pod_of(thing)["spec"]["containers"][0]["args"]


def test_disks_stay_by_default():
    policy = shard()["spec"]["persistentVolumeClaimRetentionPolicy"]
    assert policy == {"whenDeleted": "Retain", "whenScaled": "Retain"}


def test_the_next_pod_waits_until_names_are_known_anew():
    assert shard()["spec"]["minReadySeconds"] >= 30, "the usual time in caches of DNS"
    assert shard({"shard": {"minReadySeconds": 70}})["spec"]["minReadySeconds"] == 70


def test_a_long_start_is_not_cut_short():
    probe = pod_of(shard({"shard": {"startupSeconds": 7200}}))["spec"]["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 7200


def test_autoscaling_owns_the_number_of_coordinators():
    values = {"coordinator": {"autoscaling": {"enabled": True}}}
    assert "replicas" not in coordinator(values)["spec"]
    assert one(render(values), "HorizontalPodAutoscaler", "omma-coordinator")["spec"]["maxReplicas"] == 10


def test_nobody_may_read_metrics_where_nobody_is_named():
    for name in ("omma-coordinator", "omma-shard"):
        ingress = one(render({"networkPolicy": {"metrics": []}}), "NetworkPolicy", name)["spec"]["ingress"]
        ports = {port["port"] for rule in ingress for port in rule["ports"]}
        assert ports and not ports & {7710, 7711}, name


def test_metrics_of_all_pods_are_found():
    objects = render(MONITORED)
    service = one(objects, "Service", "omma-metrics")
    monitor = one(objects, "ServiceMonitor", "omma")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert [e["port"] for e in monitor["endpoints"]] == [p["name"] for p in service["spec"]["ports"]]
    for thing in (coordinator(), shard()):
        assert service["spec"]["selector"].items() <= pod_of(thing)["metadata"]["labels"].items()


def test_dashboards_and_alerts_are_those_of_the_repository():
    objects = render(MONITORED)
    dashboards = one(objects, "ConfigMap", "omma-dashboards")
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboards["data"], "no dashboard was found"
    groups = one(objects, "PrometheusRule", "omma")["spec"]["groups"]
    assert groups and all(rule["expr"] for group in groups for rule in group["rules"])


@pytest.mark.parametrize(("folder", "switch"), [("grafana", "dashboards"), ("prometheus", "prometheusRule")])
@pytest.mark.parametrize("instead", ["nothing", "the link as text"])
def test_a_copy_without_what_links_point_to_says_so(tmp_path, folder, switch, instead):
    chart = tmp_path / "omma"
    shutil.copytree(CHART, chart)
    shutil.rmtree(chart / "files" / folder)
    if instead != "nothing":
        (chart / "files" / folder).write_text(f"../../deploy/{folder}")
    assert render(chart=chart), "who does not ask for it needs none"
    with pytest.raises(Refused, match=f"helm/files/{folder} is a symbolic link"):
        render({"monitoring": {switch: {"enabled": True}}}, chart=chart)


def test_traces_and_their_way_out():
    for thing in (coordinator(MONITORED), shard(MONITORED)):
        arguments = pod_of(thing)["spec"]["containers"][0]["args"]
        assert "--otlp-endpoint=http://collector.monitoring:4317" in arguments and "--log-json" not in arguments
    policy = one(render(MONITORED), "NetworkPolicy", "omma-shard")["spec"]
    assert {"ports": [{"protocol": "TCP", "port": 4317}]} in policy["egress"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"shard": {"replicas": 2}}, "below cluster.replication"),
        ({"cluster": {"replication": 5}}, "below cluster.replication"),
        ({"cluster": {"replication": 2}}, "replication"),
        ({"cluster": {"replication": 4}, "shard": {"replicas": 4}}, "replication"),
        ({"cluster": {"groups": 0}}, "groups"),
        ({"shard": {"podDisruptionBudget": {"maxUnavailable": 2}}}, "lose its majority"),
        ({"auth": {"enabled": True}, "tls": {"enabled": False}}, "plain text"),
        ({"tls": {"source": "existing", "existing": {"public": "a", "shard": "b"}}}, "tls.existing.coordinator"),
        ({"coordinator": {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}}}, "above maxReplicas"),
        ({"shard": {"model": {"folder": "clip"}}}, "needs both"),
        ({"coordinator": {"podDisruptionBudget": {"maxUnavailable": 2}}}, "lets all 2 coordinators go"),
        ({"coordinator": {"replicas": 9, "autoscaling": {"enabled": True}, "podDisruptionBudget": {"maxUnavailable": 5}}}, "lets all 2"),
        ({"cluster": {"replication": 1}, "shard": {"podDisruptionBudget": {"maxUnavailable": 3}}}, "lets all 3 shard nodes go"),
        ({"coordinator": {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}}}, "never scale"),
        ({"zoneSpread": {"topologyKey": "rack"}}, "OMMA_ZONE"),
        ({"shard": {"resources": {"limits": {"memory": "1000Mi"}}}}, "below 1Gi"),
        ({"shard": {"resources": {"limits": {"memory": "4 GB"}}}}, "no amount of memory"),
        ({"shard": {"cacheMib": 385}}, "at most 384"),
        ({"shard": {"preStopSeconds": 55}}, "terminationGracePeriodSeconds"),
        ({"image": {"tag": "latest"}}, "tag"),
        ({"shard": {"replica": 3}}, "replica"),
        ({"shards": {}}, "shards"),
        ({"shard": {"replicas": "three"}}, "replicas"),
        ({"shard": {"persistence": {"size": "20"}}}, "size"),
        ({"telemetry": {"otlpEndpoint": "collector"}}, "otlpEndpoint"),
        ({"monitoring": {"serviceMonitor": {"interval": "90s"}}}, "interval"),
        ({"monitoring": {"serviceMonitor": {"interval": "2m"}}}, "interval"),
    ],
)
def test_nonsense_is_refused(values, says):
    with pytest.raises(Refused, match=re.escape(says)):
        render(values)


@pytest.mark.parametrize("name", ["1st", "a.b"])
def test_names_that_no_service_can_have_are_refused(name):
    with pytest.raises(Refused, match="Choose another name for the release"):
        render(release=name)
    assert one(render({"fullnameOverride": "eyes"}, release=name), "Service", "eyes")


def notes(folder, values: dict | None = None) -> str:
    """What helm says after an install: `helm template` leaves the notes out, so they are made an object of a copy."""
    chart = folder / "omma"
    shutil.copytree(CHART, chart, dirs_exist_ok=True)
    text = (chart / "templates" / "NOTES.txt").read_text()
    wrapped = '{{- define "notes" -}}' + text + '{{- end -}}\nkind: Notes\nmetadata: {name: notes}\ntext: {{ include "notes" . | toJson }}\n'
    (chart / "templates" / "notes.yaml").write_text(wrapped)
    return one(render(values, chart=chart), "Notes", "notes")["text"]


def test_notes_tell_the_next_command(tmp_path):
    text = notes(tmp_path)
    for line in (
        "helm test omma --namespace search",
        "port-forward service/omma 7700:7700",
        "get secret omma-tls-public",
        "get secret omma-api-keys",
        "omma index ~/Pictures --collection photos",
    ):
        assert line in text
    assert "WARNING" not in text and "https://localhost:7700" in text
    other = notes(tmp_path, MATRIX["cert-manager, own issuer"])
    assert "https://omma.search.svc:7700" in other and "localhost:7700" not in other, "its certificate is not for localhost"
    assert notes(tmp_path, PLAIN).count("WARNING") == 2 and "https" not in notes(tmp_path, PLAIN)
    assert notes(tmp_path, {"networkPolicy": {"enabled": False}, "cluster": {"replication": 1}}).count("WARNING") == 2
