"""The scripts that run in the chart's hooks and tests, with stand-ins for curl and omma."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import yaml
from conftest import CHART, ROOT, is_hook, one, pod_of, render, render_text

pytestmark = pytest.mark.skipif(
    not (shutil.which("jq") and shutil.which("openssl")), reason="jq or openssl is not there"
)

# Keeps secrets in a folder, and answers as the API server would.
CURL = r"""#!/usr/bin/env python3
import json, os, pathlib, sys
args, folder = sys.argv[1:], pathlib.Path(os.environ["SECRETS"])
value = lambda flag: args[args.index(flag) + 1]
name, status, answer = args[-1].rsplit("/", 1)[-1], 200, "{}"
assert args[-1].startswith("https://kubernetes.default.svc/api/v1/namespaces/search/secrets"), args[-1]
if os.environ.get("BROKEN"):
    status, answer = 403, '{"message": "forbidden"}'
elif value("--request") == "GET":
    path = folder / name
    status, answer = (200, path.read_text()) if path.exists() else (404, "{}")
else:
    secret = json.loads(pathlib.Path(value("--data-binary").removeprefix("@")).read_text())
    path = folder / secret["metadata"]["name"]
    status = 409 if path.exists() else 201
    if status == 201:
        path.write_text(json.dumps(secret))
pathlib.Path(value("--output")).write_text(answer)
print(status, end="")
"""


OMMA = r"""#!/bin/sh
[ "$*" = "--json keys new admin --roles read,write,admin --collections *" ] || exit 2
echo '{"key": "omma_admin_secret", "line": "admin sha256:abc read,write,admin *"}'
"""


class Hook:
    """The credentials hook, with the environment that the chart gives it."""

    def __init__(self, folder, values=None):
        self.secrets = folder / "secrets"
        self.work = folder / "work"
        tools, account = folder / "bin", folder / "account"
        for path in (self.secrets, self.work, tools, account):
            path.mkdir(exist_ok=True)
        for name, script in (("curl", CURL), ("omma", OMMA)):
            (tools / name).write_text(script)
            (tools / name).chmod(0o755)
        (account / "token").write_text("token")
        objects = render(values)
        text = one(objects, "ConfigMap", "omma-credentials")["data"]["credentials.sh"]
        self.script = folder / "credentials.sh"
        self.script.write_text(text.replace("/var/run/secrets/kubernetes.io/serviceaccount", str(account)))
        job = pod_of(one(objects, "Job", "omma-credentials"))["spec"]["containers"][0]
        self.environment = {e["name"]: e["value"] for e in job["env"]}
        self.environment |= {"PATH": f"{tools}:{os.environ['PATH']}", "SECRETS": str(self.secrets), "WORK": str(self.work)}

    def run(self, **more) -> subprocess.CompletedProcess:
        command = ["sh", str(self.script)]
        return subprocess.run(command, env=self.environment | more, capture_output=True, text=True, timeout=300)

    def files(self, secret: str) -> dict[str, str]:
        data = json.loads((self.secrets / secret).read_text())["data"]
        return {name: base64.b64decode(value).decode() for name, value in data.items()}


def openssl(*arguments: str, text: str) -> str:
    done = subprocess.run(["openssl", *arguments], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def hook(tmp_path):
    return Hook(tmp_path, {"tls": {"extraNames": ["search.example.com"]}})


def test_certificates_say_who_may_do_what(hook, tmp_path):
    done = hook.run()
    assert done.returncode == 0, done.stderr
    authority = hook.files("omma-tls-ca")["ca.crt"]
    (tmp_path / "ca.crt").write_text(authority)
    wanted = {
        "public": {"DNS:omma.search.svc", "DNS:localhost", "DNS:search.example.com"},
        "coordinator": {"URI:omma://coordinator"},
        "shard": {"URI:omma://shard", "DNS:*.omma-shard-peers.search.svc", "DNS:omma-shard.search.svc"},
    }
    for part, names in wanted.items():
        files = hook.files(f"omma-tls-{part}")
        assert files["ca.crt"] == authority and set(files) == {"ca.crt", "tls.crt", "tls.key"}
        openssl("verify", "-CAfile", str(tmp_path / "ca.crt"), "-purpose", "sslserver", text=files["tls.crt"])
        openssl("verify", "-CAfile", str(tmp_path / "ca.crt"), "-purpose", "sslclient", text=files["tls.crt"])
        found = openssl("x509", "-noout", "-ext", "subjectAltName", text=files["tls.crt"])
        listed = {name.strip() for name in found.splitlines()[1].split(",")}
        assert names <= listed, part
        assert ("omma://" in found) == (part != "public")
        assert openssl("pkey", "-pubout", text=files["tls.key"]) == openssl("x509", "-noout", "-pubkey", text=files["tls.crt"])
        assert files["tls.key"].startswith("-----BEGIN PRIVATE KEY-----"), "PKCS#8"


def test_the_key_file_has_the_line_and_the_key_stands_beside_it(hook):
    assert hook.run().returncode == 0
    assert hook.files("omma-api-keys") == {"keys": "admin sha256:abc read,write,admin *\n", "admin": "omma_admin_secret"}


def test_what_is_there_stays(hook):
    assert hook.run().returncode == 0
    before = {path.name: path.read_text() for path in hook.secrets.iterdir()}
    done = hook.run()
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_text() for path in hook.secrets.iterdir()} == before


def test_a_deleted_certificate_is_made_anew_by_the_same_authority(hook):
    assert hook.run().returncode == 0
    before = hook.files("omma-tls-shard")
    (hook.secrets / "omma-tls-shard").unlink()
    assert hook.run().returncode == 0
    after = hook.files("omma-tls-shard")
    assert after["ca.crt"] == before["ca.crt"] and after["tls.crt"] != before["tls.crt"]


def test_other_names_are_in_the_certificate_once_its_secret_was_deleted(hook, tmp_path):
    assert hook.run().returncode == 0
    later = Hook(tmp_path, {"tls": {"extraNames": ["pictures.example.com"]}})

    def names() -> str:
        assert later.run().returncode == 0
        return openssl("x509", "-noout", "-ext", "subjectAltName", text=later.files("omma-tls-public")["tls.crt"])

    assert "search.example.com" in names(), "what is there stays, as docs/deployment.md says"
    (later.secrets / "omma-tls-public").unlink()
    assert "pictures.example.com" in names() and "search.example.com" not in names()


def test_only_what_is_asked_for_is_made(tmp_path):
    hook = Hook(tmp_path, {"auth": {"existingSecret": "mine"}})
    assert hook.run().returncode == 0
    made = {path.name for path in hook.secrets.iterdir()}
    assert made == {f"omma-tls-{part}" for part in ("ca", "public", "coordinator", "shard")}


def test_a_refusal_of_kubernetes_is_said(hook):
    done = hook.run(BROKEN="yes")
    assert done.returncode != 0 and "403" in done.stderr and "forbidden" in done.stderr
    assert not list(hook.secrets.iterdir())


def test_the_hook_may_read_what_it_asks_for(hook):
    hook.run()
    role = one(render(), "Role", "omma-credentials")
    readable = {name for rule in role["rules"] for name in rule.get("resourceNames", [])}
    assert {path.name for path in hook.secrets.iterdir()} <= readable


def scale(folder, nodes: list[dict], action: str, ordinals: range, fails: str = "", status: str = "", note: str | None = None):
    """Runs the hook that drains and undrains on a cluster with `nodes`, or that answers as the command `status` does;
    returns how it ended, and of which nodes. What undrains has a note of where to begin, if it is not another `note`."""
    answer, log = folder / "answer.json", folder / "log"
    answer.write_text(json.dumps({"nodes": nodes}))
    log.write_text("")
    (folder / "omma").write_text(
        f'#!/bin/sh\ncase "$*" in *status*) {status or f"cat {answer}"};; "cluster {action} "*) echo "$3" >> {log}; '
        f'[ "$3" != "{fails}" ];; *) exit 2;; esac\n'
    )
    (folder / "omma").chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "PODS": "omma-shard", "ACTION": action}
    environment |= {"BELOW": str(ordinals.stop), "WORK": str(folder)}
    if action == "drain":
        environment["FROM"] = str(ordinals.start)
    else:
        environment["NOTE"] = str(folder / "from")
        (folder / "from").write_text(str(ordinals.start) if note is None else note)
    command = ["sh", str(CHART / "files" / "hooks" / "scale.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return done, [address.split(".")[0] for address in log.read_text().split()]


def node(ordinal: int, state: str = "active") -> dict:
    return {"address": f"omma-shard-{ordinal}.omma-shard-peers.search.svc:7701", "state": state}


def test_the_last_pods_are_drained_first(tmp_path):
    done, drained = scale(tmp_path, [node(n) for n in (0, 10, 2, 9, 1)], "drain", range(3, 1000000))
    assert done.returncode == 0, done.stderr
    assert drained == ["omma-shard-10", "omma-shard-9"]


def test_pods_that_stay_or_hold_nothing_are_left_alone(tmp_path):
    done, drained = scale(tmp_path, [node(0), node(1), node(2), node(3, "drained")], "drain", range(3, 1000000))
    assert done.returncode == 0 and drained == []


def test_a_drain_that_fails_stops_the_upgrade(tmp_path):
    done, drained = scale(tmp_path, [node(3), node(4)], "drain", range(3, 1000000), fails=node(4)["address"])
    assert done.returncode != 0
    assert len(drained) == 1, "the next one must not begin"


def test_whatever_else_fails_stops_the_upgrade_too(tmp_path):
    fails = {
        "omma cannot ask": "exit 3",
        "an answer that is none": "echo nothing",
        "a cluster of other pods": "echo '{\"nodes\": [{\"address\": \"10.0.0.1:7701\", \"state\": \"active\"}]}'",
        "no nodes": "echo '{\"nodes\": []}'",
    }
    for what, does in fails.items():
        done, drained = scale(tmp_path, [node(3)], "drain", range(3, 1000000), status=does)
        assert done.returncode != 0 and drained == [], what


def test_pods_that_come_back_are_used_again_and_no_others(tmp_path):
    nodes = [node(0), node(1, "drained"), node(2), node(3, "drained"), node(4)]
    done, undrained = scale(tmp_path, nodes, "undrain", range(3, 5))
    assert done.returncode == 0, done.stderr
    assert undrained == ["omma-shard-3"], "somebody drained omma-shard-1 for a reason"


def test_pods_that_were_being_drained_when_it_was_given_up_are_used_again(tmp_path):
    nodes = [node(0), node(1), node(2), node(3, "draining"), node(4, "drained"), node(4, "replaced")]
    done, undrained = scale(tmp_path, nodes, "undrain", range(3, 5))
    assert done.returncode == 0, done.stderr
    assert undrained == ["omma-shard-4", "omma-shard-3"]


def test_a_node_that_another_has_replaced_is_not_drained(tmp_path):
    done, drained = scale(tmp_path, [node(0), node(3, "replaced"), node(3)], "drain", range(3, 1000000))
    assert done.returncode == 0 and drained == ["omma-shard-3"]


def test_where_no_pod_comes_back_the_cluster_is_not_asked(tmp_path):
    for ordinals in (range(5, 5), range(7, 5)):
        done, undrained = scale(tmp_path, [node(1, "drained")], "undrain", ordinals, status="exit 3")
        assert done.returncode == 0 and undrained == [], done.stderr
    done, _ = scale(tmp_path, [], "undrain", range(3, 5), status="exit 3")
    assert done.returncode != 0


def test_a_note_that_says_nothing_is_not_taken_for_a_number(tmp_path):
    for note in ("", "three", "-1"):
        done, undrained = scale(tmp_path, [node(3, "drained")], "undrain", range(3, 5), note=note)
        assert done.returncode != 0 and undrained == [] and "no ordinal" in done.stderr, note


def test_the_script_for_kind_makes_a_pod_that_stays():
    text = render_text("{}", "--show-only", "templates/tests/find.yaml")
    command = [sys.executable, ROOT / "deploy" / "kind" / "client_pod.py", "omma-try"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    pod, original = yaml.safe_load(done.stdout), one(render(), "Pod", "omma-test")
    assert pod["metadata"]["name"] == "omma-try" and "annotations" not in pod["metadata"]
    [container] = pod["spec"]["containers"]
    assert container["command"] == ["sleep", "infinity"]
    assert "activeDeadlineSeconds" not in pod["spec"]
    assert container["env"] == original["spec"]["containers"][0]["env"]
    volumes = {v["name"] for v in pod["spec"]["volumes"]}
    assert volumes == {"tls-public", "tmp"} == {m["name"] for m in container["volumeMounts"]}


def test_helm_shows_what_a_failed_hook_said():
    for thing in (o for o in render() if is_hook(o) and pod_of(o)):
        assert "hook-failed" in thing["metadata"]["annotations"]["helm.sh/hook-output-log-policy"]
    assert "hook-succeeded" in one(render(), "Pod", "omma-test")["metadata"]["annotations"]["helm.sh/hook-output-log-policy"]


# Finds always; takes all pictures but each third, and forgets the second.
FORGETFUL = r"""#!/usr/bin/env bash
case "$*" in
    *search*) ;;
    index*) id=$(basename "$2"/*); [[ ! $id =~ -[0-9]*[369]\. ]] ;;
    *get*) shift 4; jq -n --arg ids "$*" '{images: [$ids | split(" ")[] | select(endswith("-2.png") | not) | {id: .}]}' ;;
esac
"""


def test_the_script_for_kind_sees_a_picture_that_was_lost(tmp_path):
    (tmp_path / "omma").write_text(FORGETFUL)
    (tmp_path / "omma").chmod(0o755)
    (tmp_path / "a.png").touch()
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "WATCH_FOLDER": str(tmp_path / "watch"), "PICTURES": str(tmp_path)}
    script = ["sh", ROOT / "deploy" / "kind" / "watch.sh"]
    subprocess.run([*script, "start", "7"], env=env, check=True)
    deadline = time.monotonic() + 30
    while len((tmp_path / "watch" / "acknowledged").read_text().split()) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    done = subprocess.run([*script, "stop"], env=env, capture_output=True, text=True, check=True)
    found, failed, acknowledged, refused, lost = map(int, done.stdout.split())
    assert found > 0 and failed == 0
    assert acknowledged >= 3 and refused >= 1
    assert lost == 1
