"""A stand-in for the API of Kubernetes, as far as helm asks it."""

import contextlib
import http.server
import json
import pathlib
import threading
from collections.abc import Iterator


class Kubernetes(http.server.BaseHTTPRequestHandler):
    """Knows one StatefulSet, or none."""

    replicas: int | None = None

    def do_GET(self):
        path = self.path.split("?")[0]
        answers = {
            "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
            "/apis": {
                "kind": "APIGroupList",
                "groups": [
                    {
                        "name": "apps",
                        "versions": [{"groupVersion": "apps/v1", "version": "v1"}],
                        "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"},
                    }
                ],
            },
            "/apis/apps/v1": {
                "kind": "APIResourceList",
                "groupVersion": "apps/v1",
                "resources": [{"name": "statefulsets", "kind": "StatefulSet", "namespaced": True, "verbs": ["get"]}],
            },
        }
        if self.replicas is not None:
            answers["/apis/apps/v1/namespaces/search/statefulsets/omma-shard"] = {
                "apiVersion": "apps/v1",
                "kind": "StatefulSet",
                "metadata": {"name": "omma-shard", "namespace": "search"},
                "spec": {"replicas": self.replicas},
            }
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(answers.get(path, missing)).encode()
        self.send_response(200 if path in answers else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def kubernetes(folder: pathlib.Path, shard_pods: int | None = None) -> Iterator[str]:
    """Serves it, with so many shard pods; gives the path of a kubeconfig in `folder`."""
    handler = type("Now", (Kubernetes,), {"replicas": shard_pods})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "users": [{"name": "x", "user": {}}],
        "current-context": "x",
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    try:
        yield str(path)
    finally:
        server.shutdown()
        server.server_close()
