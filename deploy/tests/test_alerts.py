"""Alerts and the dashboard: that they keep clusters apart, and that promtool's tests know every alert."""

import json
import re
import shutil
import subprocess

import pytest
import yaml
from conftest import MONITORED, ROOT, one, render

PROMETHEUS = ROOT / "deploy" / "prometheus"
# What tells the clusters in one Prometheus apart.
APART = ["cluster", "namespace", "service", "job"]


def rules(text: str) -> list[dict]:
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def static() -> list[dict]:
    return rules((PROMETHEUS / "alerts.yaml").read_text())


def test_what_is_added_up_is_added_up_for_each_cluster_by_itself():
    sums = 0
    for rule in static():
        assert not re.search(r"\b(sum|min|max|count|avg|group)\s*\(", rule["expr"]), f"{rule['alert']} adds up all clusters"
        for labels in re.findall(r"\bby \(([^)]*)\)", rule["expr"]):
            # Whether something is a process of Omma's at all, its job tells, whatever else it has.
            apart = ["cluster", "job"] if rule["alert"] == "OmmaProcessDown" else APART
            assert labels.split(", ")[: len(apart)] == apart, rule["alert"]
            sums += 1
    assert sums > 10


def test_promtool_s_tests_know_every_alert():
    tests = (PROMETHEUS / "alerts.test.yaml").read_text()
    names = [rule["alert"] for rule in static()]
    assert len(names) == len(set(names)) > 20
    for name in names:
        assert re.search(rf'alertname="{name}"[^}}]*}}\', value: [1-9]|alertname="{name}".*\n.*\n\s+exp_samples: \[.*value: 1', tests), name


def test_a_scrape_a_minute_is_enough_for_every_rate():
    windows = [w for rule in static() for w in re.findall(r"\[(\w+)(?::\w*)?\]", rule["expr"])]
    assert len(windows) > 10
    for window in windows:
        assert window.endswith(("h", "d")) or int(window.removesuffix("m")) >= 5, window


def test_every_alert_says_what_to_do():
    for rule in [*static(), *of_the_release(MONITORED)]:
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert {"summary", "description", "runbook"} == rule["annotations"].keys(), rule["alert"]


def test_the_dashboard_shows_one_cluster():
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "omma.json").read_text())
    variables = {v["name"]: v for v in dashboard["templating"]["list"]}
    shown = 0
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            for selector in re.findall(r"omma_\w+(\{[^}]*\})?", target["expr"]):
                for label in APART:
                    assert f'{label}="${label}"' in selector, f"{panel['title']}: {target['expr']}"
                shown += 1
    assert shown > 45
    for name in APART:
        assert not variables[name]["includeAll"] and not variables[name]["multi"], name
    assert all(f'{label}=\"${label}\"' in variables["instance"]["query"] for label in APART)


def of_the_release(values: dict) -> list[dict]:
    """The alerts that only the chart can make: it knows how many there should be."""
    groups = one(render(values), "PrometheusRule", "omma")["spec"]["groups"]
    return [rule for group in groups if group["name"] == "omma-release" for rule in group["rules"]]


def test_the_chart_knows_how_many_there_should_be():
    values = MONITORED | {"shard": {"replicas": 5}, "coordinator": {"autoscaling": {"enabled": True, "minReplicas": 4}}}
    expressions = {rule["alert"]: rule["expr"] for rule in of_the_release(values)}
    assert expressions["OmmaShardNodesMissing"].endswith("< 5") and expressions["OmmaCoordinatorsMissing"].endswith("< 4")
    for expression in expressions.values():
        assert '{namespace="search",service="omma-metrics"}' in expression, "of this release only"
    assert of_the_release({"monitoring": {"prometheusRule": {"enabled": True}}}) == [], "who else scrapes has other labels"


TEST_OF_THE_RELEASE = """
rule_files: [rules.yaml]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      - {series: 'omma_node_info{namespace="search",service="omma-metrics",pod="omma-shard-0"}', values: 1x120}
      - {series: 'omma_node_info{namespace="search",service="omma-metrics",pod="omma-shard-1"}', values: 1x120}
      # The third one goes, and then there is one that has not joined.
      - {series: 'omma_node_info{namespace="search",service="omma-metrics",pod="omma-shard-2"}', values: 1x40 _x20 0x60}
      - {series: 'omma_node_info{namespace="other",service="omma-metrics",pod="omma-shard-2"}', values: 1x120}
      - {series: 'omma_cluster_map_known{namespace="search",service="omma-metrics",pod="omma-coordinator-x"}', values: 1x40 _x80}
      - {series: 'omma_cluster_map_known{namespace="search",service="omma-metrics",pod="omma-coordinator-y"}', values: 0x40 _x80}
      - series: omma_process_start_time_seconds{namespace="search",service="omma-metrics",pod="omma-shard-0"}
        values: 100x80 200x40
      - {series: 'omma_process_start_time_seconds{namespace="search",service="omma-metrics",pod="omma-shard-1"}', values: 100x120}
    promql_expr_test:
      - {expr: 'ALERTS{alertname=~"OmmaShardNodesMissing|OmmaCoordinatorsMissing|OmmaContainerRestarted"}', eval_time: 10m, exp_samples: []}
      - expr: count by (alertname, pod) (ALERTS{alertname=~"OmmaShard.*|OmmaCoordinatorsMissing|OmmaContainer.*", alertstate="firing"})
        eval_time: 28m
        exp_samples:
          - {labels: '{alertname="OmmaShardNodesMissing"}', value: 1}
          - {labels: '{alertname="OmmaCoordinatorsMissing"}', value: 1}
          - {labels: '{alertname="OmmaContainerRestarted", pod="omma-shard-0"}', value: 1}
"""


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not there")
def test_promtool_agrees(tmp_path):
    groups = one(render(MONITORED), "PrometheusRule", "omma")["spec"]["groups"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    (tmp_path / "test.yaml").write_text(TEST_OF_THE_RELEASE)
    for folder, file in ((PROMETHEUS, "alerts.test.yaml"), (tmp_path, "test.yaml")):
        done = subprocess.run(["promtool", "test", "rules", file], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(["promtool", "check", "rules", "rules.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
