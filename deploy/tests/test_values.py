"""values.yaml and its schema."""

import json
import subprocess
import sys

import pytest
import yaml
from conftest import CHART, ROOT


def test_the_schema_is_up_to_date():
    done = subprocess.run([sys.executable, ROOT / "scripts" / "values-schema", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_values_are_short_and_every_key_has_a_comment():
    text = (CHART / "values.yaml").read_text()
    assert len(text.splitlines()) < 300
    schema = json.loads((CHART / "values.schema.json").read_text())

    def walk(values: dict, schema: dict, path: str):
        for key, value in values.items():
            part = schema["properties"][key]
            assert len(part["description"]) > 3, f"{path}{key}"
            if isinstance(value, dict) and "properties" in part:
                walk(value, part, f"{path}{key}.")

    walk(yaml.safe_load(text), schema, "")


def test_a_key_without_a_comment_is_noticed(tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "helm").mkdir()
    script = tmp_path / "scripts" / "values-schema"
    script.write_text((ROOT / "scripts" / "values-schema").read_text())
    (tmp_path / "helm" / "values.yaml").write_text("# Said.\na: 1\n\nb: 2\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode != 0 and "b has no comment" in done.stderr


@pytest.mark.parametrize("name", ["appVersion", "version"])
def test_the_chart_has_the_version_of_the_code(name):
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    manifest = (ROOT / "Cargo.toml").read_text()
    assert f'version = "{chart[name]}"' in manifest
