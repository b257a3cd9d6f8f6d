"""Writes images that share layers into one archive. Usage: archive.py ARCHIVE TAG LAYER.tar…

The format is that of `docker save`. Users, ports and entry points are those of deploy/Dockerfile.
"""

import hashlib
import io
import json
import sys
import tarfile

USER = "10001:10001"


def started_by(program: str, **env: str) -> dict:
    return {"Entrypoint": ["tini", "--", program], "User": USER, "Env": [f"{k}={v}" for k, v in env.items()]}


IMAGES = {
    "omma-coordinator": started_by("omma-coordinator", OMMA_LISTEN="0.0.0.0:7700", OMMA_ADMIN_LISTEN="0.0.0.0:7710"),
    "omma-shard": started_by(
        "omma-shard", OMMA_DATA="/var/lib/omma", OMMA_LISTEN="0.0.0.0:7701", OMMA_ADMIN_LISTEN="0.0.0.0:7711"
    ),
    "omma-cli": started_by("omma"),
    # What holds a pod's network.
    "omma-pause": {"Entrypoint": ["sleep", "infinity"], "User": "65535:65535"},
}
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    path, tag, *layers = sys.argv[1:]
    digests = [digest(layer) for layer in layers]
    with tarfile.open(path, "w") as archive:

        def add(name: str, content: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

        for layer, sha in zip(layers, digests):
            archive.add(layer, f"{sha}.tar")
        manifest = []
        for name, config in IMAGES.items():
            config = config | {"Env": [PATH, *config.get("Env", [])], "WorkingDir": "/", "StopSignal": "SIGTERM"}
            content = json.dumps({
                "architecture": "amd64",
                "os": "linux",
                "config": config,
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha}" for sha in digests]},
            }).encode()
            add(f"{name}.json", content)
            manifest.append(
                {"Config": f"{name}.json", "RepoTags": [f"{name}:{tag}"], "Layers": [f"{sha}.tar" for sha in digests]}
            )
        add("manifest.json", json.dumps(manifest).encode())


main()
