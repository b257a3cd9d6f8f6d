"""deploy/kind/try, with stand-ins for kubectl and helm: what it leaves alone."""

import os
import shutil
import subprocess

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("jq"), reason="jq is not there")

# Notes what it is asked, and answers with the file of its own name and first word, such as kubectl-get; without one it fails.
TOOL = r"""#!/bin/sh
echo "${0##*/} $*" >> "$ANSWERS/asked"
for word in "$@"; do
    [ ! -e "$ANSWERS/${0##*/}-$word" ] || exec cat "$ANSWERS/${0##*/}-$word"
done
exit 1
"""
CHANGES = ("upgrade", "uninstall", "delete", "apply", "rollback", "drain")


def tried(folder, answers: dict[str, str]) -> tuple[str, list[str]]:
    """What it says, and what it asked of Kubernetes, where questions have these answers; others fail."""
    for tool in ("kubectl", "helm"):
        (folder / tool).write_text(TOOL)
        (folder / tool).chmod(0o755)
    for question, answer in answers.items():
        (folder / question).write_text(answer)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "ANSWERS": str(folder)}
    command = [str(ROOT / "deploy/kind/try"), "--context", "theirs"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    return done.stdout + done.stderr, (folder / "asked").read_text().splitlines()


def changed(asked: list[str]) -> list[str]:
    return [line for line in asked if any(word in line.split() for word in CHANGES)]


def test_a_release_that_is_there_is_left_alone(tmp_path):
    said, asked = tried(tmp_path, {"helm-list": "omma\n", "kubectl-get": "namespace/omma-try\n"})
    assert "a release omma" in said and changed(asked) == []


@pytest.mark.parametrize("answers", [{}, {"helm-list": ""}], ids=["nothing", "kubectl"])
def test_so_is_a_cluster_that_does_not_answer(tmp_path, answers):
    _, asked = tried(tmp_path, answers)
    assert changed(asked) == []


@pytest.mark.parametrize(("namespace", "removed"), [("namespace/omma-try\n", False), ("", True)], ids=["theirs", "ours"])
def test_only_a_namespace_of_its_own_is_removed(tmp_path, namespace, removed):
    _, asked = tried(tmp_path, {"helm-list": "", "kubectl-get": namespace, "helm-uninstall": "", "kubectl-delete": ""})
    assert any(line.startswith("helm upgrade") for line in asked), "the install was tried"
    assert any(line.startswith("helm uninstall") for line in asked)
    assert any("delete namespace" in line for line in asked) == removed
