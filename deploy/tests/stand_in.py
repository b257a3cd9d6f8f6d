"""A stand-in for the API of Kubernetes, as far as helm uses it: keeps objects in memory, says that all are ready, and does
nothing about them."""

import contextlib
import http.server
import itertools
import json
import pathlib
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator

import wire

# What it knows, by group and version: resource and kind.
KINDS = {
    "v1": {
        "configmaps": "ConfigMap",
        "pods": "Pod",
        "secrets": "Secret",
        "serviceaccounts": "ServiceAccount",
        "services": "Service",
    },
    "apps/v1": {"deployments": "Deployment", "replicasets": "ReplicaSet", "statefulsets": "StatefulSet"},
    "batch/v1": {"jobs": "Job"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "rbac.authorization.k8s.io/v1": {"roles": "Role", "rolebindings": "RoleBinding"},
    "cert-manager.io/v1": {"issuers": "Issuer", "clusterissuers": "ClusterIssuer"},
}
NUMBERS = itertools.count(1)


def root(version: str) -> str:
    return ("/apis/" if "/" in version else "/api/") + version


def discovery() -> dict[str, dict]:
    """What it says of itself, by path."""
    groups = []
    answers = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "groups": groups},
    }
    for version, kinds in KINDS.items():
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        resources = [
            {"name": name, "singularName": kind.lower(), "kind": kind, "namespaced": kind != "ClusterIssuer", "verbs": verbs}
            for name, kind in kinds.items()
        ]
        answers[root(version)] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        if "/" in version:
            group, number = version.split("/")
            named = {"groupVersion": version, "version": number}
            groups.append({"name": group, "versions": [named], "preferredVersion": named})
    return answers | validation()


def validation() -> dict[str, dict]:
    """That it would look for wrong fields by itself: so helm does not ask for the schemas, which test_schemas.py goes by."""
    answers: dict[str, dict] = {"/openapi/v3": {"paths": {}}}
    flag = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    for version, kinds in KINDS.items():
        group, _, number = version.rpartition("/")
        paths = {}
        for resource, kind in kinds.items():
            names = {"group": group, "version": number, "kind": kind}
            paths[f"/{resource}"] = {"patch": {"parameters": [flag], "responses": {}, "x-kubernetes-group-version-kind": names}}
        where = f"/openapi/v3{root(version)}"
        answers["/openapi/v3"]["paths"][root(version).lstrip("/")] = {"serverRelativeURL": where}
        answers[where] = {"openapi": "3.0.0", "info": {"title": "stand-in", "version": "1"}, "paths": paths}
    return answers


def path_of(thing: dict) -> str:
    """Where an object is, in the namespace `search` if in any."""
    version, kind, name = thing["apiVersion"], thing["kind"], thing["metadata"]["name"]
    resource = next(resource for resource, of in KINDS[version].items() if of == kind)
    where = "" if kind == "ClusterIssuer" else "namespaces/search/"
    return f"{root(version)}/{where}{resource}/{name}"


def merged(old, patch):
    """A merge patch. That lists of Kubernetes' own are merged by names, nobody here looks at."""
    if not isinstance(patch, dict) or not isinstance(old, dict):
        return patch
    both = old | {key: merged(old.get(key), value) for key, value in patch.items() if not key.startswith("$")}
    return {key: value for key, value in both.items() if value is not None}


class Kubernetes:
    """The objects, by path; what helm creates, changes and deletes among them."""

    def __init__(self, *objects: dict):
        self.objects = {path_of(thing): thing for thing in objects}
        # Told of every object that is created or changed, before it is kept; may change it. What it raises is the answer.
        self.on_change: Callable[[dict], None] = lambda thing: None

    def keep(self, path: str, thing: dict) -> dict:
        thing["metadata"].update({"namespace": "search", "resourceVersion": str(next(NUMBERS)), "uid": path})
        self.on_change(thing)
        self.ready(thing)
        self.objects[path] = thing
        return thing

    def ready(self, thing: dict):
        """What helm waits for."""
        replicas = thing.get("spec", {}).get("replicas", 1)
        counts = {name: replicas for name in ("replicas", "readyReplicas", "updatedReplicas", "availableReplicas")}
        if thing["kind"] == "StatefulSet":
            thing["status"] = counts
        elif thing["kind"] == "Service":
            thing["spec"].setdefault("clusterIP", "10.0.0.1")
        elif thing["kind"] == "Deployment":
            thing["status"] = counts
            metadata = {name: thing["metadata"][name] for name in ("name", "namespace")}
            owner = {"apiVersion": "apps/v1", "kind": "Deployment", "controller": True, "uid": thing["metadata"]["uid"]}
            metadata |= {"labels": thing["spec"]["selector"]["matchLabels"], "ownerReferences": [owner | {"name": metadata["name"]}]}
            copy = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": metadata, "spec": thing["spec"], "status": counts}
            self.objects[path_of(copy)] = copy

    def get(self, kind: str, name: str, version: str = "v1") -> dict | None:
        return self.objects.get(path_of({"apiVersion": version, "kind": kind, "metadata": {"name": name}}))

    def listed(self, folder: str, query: dict[str, str]) -> list[dict]:
        """Those in a folder that selectors, of equations alone, let through."""
        things = [o for path, o in self.objects.items() if path.rsplit("/", 1)[0] == folder]
        labels = dict(pair.split("=") for pair in query.get("labelSelector", "").split(",") if "=" in pair)
        name = query.get("fieldSelector", "").removeprefix("metadata.name=")
        return [
            o
            for o in things
            if labels.items() <= o["metadata"].get("labels", {}).items() and name in ("", o["metadata"]["name"])
        ]


class Handler(http.server.BaseHTTPRequestHandler):
    """Kubernetes' API over `world`."""

    world: Kubernetes
    said = discovery()

    def answer(self, status: int, body: dict):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def fail(self, status: int, reason: str):
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": status}
        self.answer(status, body)

    def asked(self) -> tuple[str, dict[str, str]]:
        url = urllib.parse.urlsplit(self.path)
        return url.path, dict(urllib.parse.parse_qsl(url.query))

    def sent(self) -> dict:
        """The object that a request brings."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return wire.secret(body) if body.startswith(b"k8s\0") else json.loads(body or "{}")

    def do_GET(self):
        path, query = self.asked()
        found = self.said.get(path) or self.world.objects.get(path)
        kind = next((kinds[path.rsplit("/", 1)[-1]] for v, kinds in KINDS.items() if path.rsplit("/", 1)[-1] in kinds), None)
        if found:
            self.answer(200, found)
        elif not kind:
            self.fail(404, "NotFound")
        elif query.get("watch"):
            self.watch(kind, self.world.listed(path, query), query)
        else:
            version = "/".join(path.split("/namespaces/")[0].split("/")[2:])
            items = self.world.listed(path, query)
            self.answer(200, {"apiVersion": version, "kind": f"{kind}List", "metadata": {"resourceVersion": "1"}, "items": items})

    def watch(self, kind: str, things: list[dict], query: dict[str, str]):
        """What is there; nothing changes until the other side has waited long enough."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        events = [{"type": "ADDED", "object": thing} for thing in things]
        if query.get("sendInitialEvents") == "true":
            done = {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}
            version = next(v for v, kinds in KINDS.items() if kind in kinds.values())
            events.append({"type": "BOOKMARK", "object": {"apiVersion": version, "kind": kind, "metadata": done}})
        with contextlib.suppress(OSError):
            for event in events:
                self.wfile.write(json.dumps(event).encode() + b"\n")
            self.wfile.flush()
            time.sleep(1)

    def change(self, status: int, path: str, thing: dict):
        try:
            self.answer(status, self.world.keep(path, thing))
        except RuntimeError as why:
            self.fail(500, str(why))

    def do_POST(self):
        path, _ = self.asked()
        thing = self.sent()
        path = f"{path}/{thing['metadata']['name']}"
        if path in self.world.objects:
            return self.fail(409, "AlreadyExists")
        self.change(201, path, thing)

    def do_PUT(self):
        path, _ = self.asked()
        self.change(200, path, self.sent())

    def do_PATCH(self):
        path, _ = self.asked()
        patch = self.sent()
        if path not in self.world.objects:
            return self.fail(404, "NotFound")
        self.change(200, path, merged(self.world.objects[path], patch))

    def do_DELETE(self):
        path, _ = self.asked()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        gone = self.world.objects.pop(path, None)
        self.answer(200, gone) if gone else self.fail(404, "NotFound")

    def log_message(self, *_):
        pass


def shard_pods(replicas: int) -> dict:
    """The StatefulSet of the release `omma`."""
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "omma-shard"}, "spec": {"replicas": replicas}}


@contextlib.contextmanager
def serving(world: Kubernetes, folder: pathlib.Path) -> Iterator[str]:
    """Serves it; gives the path of a kubeconfig in `folder`, another one each time."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Serving", (Handler,), {"world": world}))
    server.daemon_threads = True
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
    path.chmod(0o600)
    try:
        yield str(path)
    finally:
        server.shutdown()
        server.server_close()


def kubernetes(folder: pathlib.Path, *objects: dict) -> contextlib.AbstractContextManager[str]:
    """Serves one with these objects; gives the path of a kubeconfig."""
    return serving(Kubernetes(*objects), folder)
