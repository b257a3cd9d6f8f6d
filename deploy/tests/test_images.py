"""The Dockerfile, its dependencies and the Compose file. Lint is hadolint's; this is what it does not know."""

import re
import subprocess

import yaml
from conftest import ROOT

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def stages() -> dict[str, str]:
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)[1:]
    return {name: base for base, name in zip(parts[::3], parts[1::3])}


def test_every_target_is_there_and_ends_as_the_same_user():
    for target in ("coordinator", "shard", "shard-cuda", "cli"):
        base = target
        while base in stages() and base != "base":
            base = stages()[base]
        assert base == "base", target
    for stage in DOCKERFILE.split(" AS base\n")[1].split("\nFROM "):
        users = re.findall(r"^USER (.*)$", stage, flags=re.MULTILINE)
        assert users[-1:] in ([], ["10001:10001"]), stage


def test_the_gpu_library_has_the_version_of_the_other():
    pinned = re.search(r'ONNXRUNTIME_VERSION: &str = "([\d.]+)"', (ROOT / "common/src/cache.rs").read_text()).group(1)
    requirements = (DEPLOY / "cuda" / "requirements.txt").read_text()
    assert f"onnxruntime-gpu=={pinned} " in requirements
    packages = [line for line in requirements.splitlines() if line and not line.startswith("#")]
    assert len(packages) > 5
    assert all(re.fullmatch(r"[\w-]+==[\w.]+ --hash=sha256:[0-9a-f]{64}", line) for line in packages)


def test_the_skeleton_has_every_target_and_no_code(tmp_path):
    to = tmp_path / "skeleton"
    subprocess.run([DEPLOY / "skeleton", to], cwd=ROOT, check=True)
    manifest = (ROOT / "Cargo.toml").read_text()
    members = re.findall(r'"([\w-]+)"', re.search(r"^members = \[(.*?)\]", manifest, re.MULTILINE | re.DOTALL).group(1))
    for member in members:
        assert (to / member / "Cargo.toml").read_text() == (ROOT / member / "Cargo.toml").read_text()
        for name in ("src/lib.rs", "src/main.rs", "build.rs"):
            assert (to / member / name).exists() == (ROOT / member / name).exists(), f"{member}/{name}"
        for path in re.findall(r'^path = "(src/[^"]+)"', (ROOT / member / "Cargo.toml").read_text(), re.MULTILINE):
            assert (to / member / path).exists(), f"{member}/{path}"
        for name in re.findall(r'^\[\[bench\]\]\nname = "(.+)"', (ROOT / member / "Cargo.toml").read_text(), re.MULTILINE):
            assert (to / member / "benches" / f"{name}.rs").exists(), f"{member}'s bench {name}"
    assert (to / "Cargo.lock").exists()
    assert sum(path.stat().st_size for path in to.rglob("*.rs")) < 1000


def test_all_that_images_are_made_of_reaches_the_builder():
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    manifest = (ROOT / "Cargo.toml").read_text()
    members = re.findall(r'"([\w-]+)"', re.search(r"^members = \[(.*?)\]", manifest, re.MULTILINE | re.DOTALL).group(1))
    for member in set(members) - {"integration-tests"}:
        assert member in let_in
    assert not {".git", "target"} & let_in


def compose() -> dict:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_compose_is_closed_to_other_machines_and_pinned():
    for name, service in compose()["services"].items():
        assert re.fullmatch(r"[\w./-]+:(dev|v?\d+\.\d+\.\d+)", service["image"]), name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        if service["image"].startswith("omma-"):
            assert service["read_only"] and service["cap_drop"] == ["ALL"], name
            assert service["build"]["target"] in stages(), name


def test_compose_mounts_what_is_there():
    volumes = compose()["volumes"]
    for name, service in compose()["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            there = (DEPLOY / source).exists() if source.startswith(".") else source in volumes
            assert there, f"{name}: {source}"


def test_compose_watches_every_server():
    services = compose()["services"]
    config = yaml.safe_load((DEPLOY / "compose" / "prometheus.yml").read_text())
    targets = {t for job in config["scrape_configs"] for s in job["static_configs"] for t in s["targets"]}
    nodes = {name for name in services if name.startswith("shard-")}
    assert targets == {"coordinator:7710"} | {f"{name}:7711" for name in nodes}
    for name in nodes:
        environment = services[name]["environment"]
        assert environment["OMMA_ADVERTISE"] == f"{name}:7701"
        assert environment["OMMA_ADVERTISE"] in environment["OMMA_PEERS"].split(",")
        assert services[name]["volumes"] == [f"{name}:/var/lib/omma"]


def test_the_readme_has_the_three_lines():
    head = (DEPLOY / "compose.yaml").read_text().split("\nname:")[0]
    lines = re.findall(r"docker compose .*", head)
    readme = (ROOT / "README.md").read_text()
    assert len(lines) == 3 and "\n".join(["```sh", *lines, "```"]) in readme
    verbs = [re.search(r"\b(up|run .* cli (?:index|search))\b", line).group(1).split()[-1] for line in lines]
    assert verbs == ["up", "index", "search"]
