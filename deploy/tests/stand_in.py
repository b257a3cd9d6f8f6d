"""A stand-in for the API of Kubernetes, as far as helm asks it."""

import contextlib
import http.server
import itertools
import json
import pathlib
import threading
from collections.abc import Iterator

# What there is, by group and version: resource and kind.
KINDS = {
    "v1": {"secrets": "Secret", "configmaps": "ConfigMap"},
    "apps/v1": {"statefulsets": "StatefulSet"},
    "cert-manager.io/v1": {"issuers": "Issuer", "clusterissuers": "ClusterIssuer"},
}

NUMBERS = itertools.count()


def discovery() -> dict[str, dict]:
    """What it says of itself, by path."""
    groups = []
    answers = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "groups": groups},
    }
    for version, kinds in KINDS.items():
        resources = [
            {"name": name, "kind": kind, "namespaced": kind != "ClusterIssuer", "verbs": ["get", "list"]}
            for name, kind in kinds.items()
        ]
        root = "/apis/" if "/" in version else "/api/"
        answers[root + version] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        if "/" in version:
            group, number = version.split("/")
            named = {"groupVersion": version, "version": number}
            groups.append({"name": group, "versions": [named], "preferredVersion": named})
    return answers


def path_of(thing: dict) -> str:
    """Where an object is, in the namespace `search` if in any."""
    version, kind, name = thing["apiVersion"], thing["kind"], thing["metadata"]["name"]
    resource = next(resource for resource, of in KINDS[version].items() if of == kind)
    where = "" if kind == "ClusterIssuer" else "namespaces/search/"
    return f"{'/apis' if '/' in version else '/api'}/{version}/{where}{resource}/{name}"


class Kubernetes(http.server.BaseHTTPRequestHandler):
    """Knows some objects."""

    answers: dict[str, dict] = {}

    def do_GET(self):
        path = self.path.split("?")[0]
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(self.answers.get(path, missing)).encode()
        self.send_response(200 if path in self.answers else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def shard_pods(replicas: int) -> dict:
    """The StatefulSet of the release `omma`."""
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "omma-shard"}, "spec": {"replicas": replicas}}


@contextlib.contextmanager
def kubernetes(folder: pathlib.Path, *objects: dict) -> Iterator[str]:
    """Serves it, with these objects; gives the path of a kubeconfig in `folder`, another one each time."""
    sets = [thing for thing in objects if thing["kind"] == "StatefulSet"]
    answers = discovery() | {path_of(thing): thing for thing in objects}
    every = {"apiVersion": "apps/v1", "kind": "StatefulSetList", "metadata": {}, "items": sets}
    answers["/apis/apps/v1/namespaces/search/statefulsets"] = every
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Now", (Kubernetes,), {"answers": answers}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "users": [{"name": "x", "user": {}}],
        "current-context": "x",
    }
    path = folder / f"kubeconfig-{next(NUMBERS)}"
    path.write_text(json.dumps(config))
    try:
        yield str(path)
    finally:
        server.shutdown()
        server.server_close()
