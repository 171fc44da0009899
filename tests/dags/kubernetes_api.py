"""A stand-in for the Kubernetes API, which cannot run here: it keeps objects, over a real socket.

It creates, reads, lists, patches and deletes what it is given and runs nothing; a test sets the
status that the cluster would have written.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class KubernetesApi:
    """The stored objects by their path, and where the API answers."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.url = ""

    def kube_config(self) -> dict[str, Any]:
        """A kubeconfig that leads here."""
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
            "clusters": [{"name": "here", "cluster": {"server": self.url}}],
            "users": [{"name": "me", "user": {"token": "none"}}],
        }


@contextmanager
def serving() -> Iterator[KubernetesApi]:
    """Serve the API on a free loopback port."""
    api = KubernetesApi()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path in api.objects:
                self._answer(200, api.objects[path])
            elif path.rsplit("/", 1)[-1] in ("pods", "events"):
                items = [value for key, value in api.objects.items() if key.startswith(path)]
                self._answer(200, {"kind": "List", "apiVersion": "v1", "items": items})
            else:
                self._missing()

        def do_POST(self) -> None:
            body = self._body()
            body["metadata"].setdefault("name", body["metadata"].get("generateName", "") + "1")
            path = f"{self.path.split('?')[0]}/{body['metadata']['name']}"
            if path in api.objects:
                self._answer(409, {"kind": "Status", "reason": "AlreadyExists", "code": 409})
                return
            api.objects[path] = body
            self._answer(201, body)

        def do_PATCH(self) -> None:
            stored = api.objects[self.path.split("?")[0]]
            stored["metadata"].update(self._body().get("metadata", {}))
            self._answer(200, stored)

        def do_DELETE(self) -> None:
            gone = api.objects.pop(self.path.split("?")[0], None)
            self._answer(200, gone or {"kind": "Status", "status": "Success"})

        def _body(self) -> Any:
            return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

        def _missing(self) -> None:
            self._answer(404, {"kind": "Status", "reason": "NotFound", "code": 404})

        def _answer(self, code: int, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
