"""A server of Kubernetes' API, as far as lists and watches of two kinds need it.

Objects have resource versions; lists are paged; a watch is a chunked stream of one JSON text per
line, with bookmarks, from any remembered version; any other gets 410.
"""

import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

KINDS = {
    "/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices": "slice",
    "/api/v1/namespaces/ns/services": "service",
}


def endpoint(name: str, address: str, ready=True, serving=None, terminating=None, **fields):
    conditions = {"ready": ready, "serving": serving, "terminating": terminating}
    return {
        "addresses": [address],
        "conditions": {k: v for k, v in conditions.items() if v is not None},
        "targetRef": {"kind": "Pod", "namespace": "ns", "name": name},
        **fields,
    }


class KubernetesServer:
    """Serves on loopback; `tls` is (chain file, key file), `token` what callers must present.

    Attributes
    ----------
    url : str
    asked : list of (kind, query)
        The requests, in order.
    status : int
        The answer to every request, unless 200.
    """

    def __init__(self, tls=None, token: str = "") -> None:
        self.token, self.status, self.page = token, 200, 50
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.watch_seconds = 60.0
        self._objects: dict[tuple[str, str], dict] = {}
        self._events: list[tuple[int, str, dict]] = []  # version, kind, event
        self._version, self._oldest = 100, 100
        self._changed = threading.Condition()
        self._cuts = self._bookmarks = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer._answer(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.host, self.port = "127.0.0.1", self._server.server_port
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.cut()
        self._server.shutdown()
        self._server.server_close()

    # What the cluster does

    def put_slice(self, name, endpoints, *, service="vllm", ports=(("http", 8000),), **fields):
        metadata = {"labels": {"kubernetes.io/service-name": service} | fields.pop("labels", {})}
        metadata["annotations"] = fields.pop("annotations", {})
        body = {
            "addressType": "IPv4",
            "endpoints": list(endpoints),
            "ports": [{"name": n, "port": p, "protocol": "TCP"} for n, p in ports],
            **fields,
        }
        self._put("slice", name, metadata, body)

    def put_service(self, name="vllm", labels=None, annotations=None):
        self._put("service", name, {"labels": labels or {}, "annotations": annotations or {}}, {})

    def _put(self, kind, name, metadata, body):
        with self._changed:
            self._version += 1
            what = "MODIFIED" if (kind, name) in self._objects else "ADDED"
            version = {"resourceVersion": str(self._version)}
            metadata = {"name": name, "namespace": "ns"} | version | metadata
            item = {"metadata": metadata, **body}
            self._objects[kind, name] = item
            self._log(kind, what, item)

    def delete(self, kind, name):
        with self._changed:
            self._version += 1
            item = self._objects.pop((kind, name))
            item["metadata"]["resourceVersion"] = str(self._version)
            self._log(kind, "DELETED", item)

    def _log(self, kind, what, item):
        event = json.loads(json.dumps({"type": what, "object": item}))
        self._events.append((self._version, kind, event))
        self._changed.notify_all()

    def forget(self):
        """Forget all events: a watch from an older version gets 410."""
        with self._changed:
            self._version += 1
            self._oldest = self._version
            self._events.clear()

    def bookmark(self):
        """Send a bookmark to every watch."""
        with self._changed:
            self._version += 1
            self._bookmarks += 1
            self._changed.notify_all()

    def cut(self):
        """End every watch in the middle of a line."""
        with self._changed:
            self._cuts += 1
            self._changed.notify_all()

    # What callers get

    def _answer(self, handler):
        url = urlsplit(handler.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        kind = KINDS.get(url.path)
        with self._changed:
            self.asked.append((kind or url.path, query))
        if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            return self._refuse(handler, 401, "Unauthorized")
        if self.status != 200:
            return self._refuse(handler, self.status, "told to")
        if kind is None:
            return self._refuse(handler, 404, "the server could not find the requested resource")
        if query.get("watch"):
            return self._watch(handler, kind, query)
        return self._list(handler, kind, query)

    def _list(self, handler, kind, query):
        with self._changed:
            items = [i for (k, _), i in sorted(self._objects.items()) if k == kind]
            items = [item for item in items if _selected(item, query)]
            start = int(query.get("continue", "0"))
            end = start + min(int(query.get("limit", "500")), self.page)
            metadata = {"resourceVersion": str(self._version)}
            if end < len(items):
                metadata["continue"] = str(end)
            body = json.dumps({"metadata": metadata, "items": items[start:end]}).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _watch(self, handler, kind, query):
        version = int(query["resourceVersion"])
        if version < self._oldest:
            return self._refuse(handler, 410, f"too old resource version: {version}")
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.flush()
        ends = time.monotonic() + min(self.watch_seconds, float(query["timeoutSeconds"]))
        cuts, bookmarks = self._cuts, self._bookmarks
        handler.close_connection = True
        try:
            while (left := ends - time.monotonic()) > 0:
                with self._changed:
                    events = [e for v, k, e in self._events if v > version and k == kind]
                    cut, marked = self._cuts != cuts, self._bookmarks != bookmarks
                    if not events and not cut and not marked:
                        self._changed.wait(left)
                        continue
                    bookmarks, old, version = self._bookmarks, version, self._version
                    if old < self._oldest:
                        status = {"code": 410, "message": "too old", "kind": "Status"}
                        events = [{"type": "ERROR", "object": status}]
                if marked:
                    mark = {"metadata": {"resourceVersion": str(version)}}
                    events.append({"type": "BOOKMARK", "object": mark})
                if cut:
                    return _send(handler, b'{"type": "ADDED", "obj')
                for event in events:
                    if event["type"] in ("BOOKMARK", "ERROR") or _selected(event["object"], query):
                        _send(handler, json.dumps(event).encode() + b"\n")
            handler.wfile.write(b"0\r\n\r\n")
        except OSError:
            return  # the caller has gone
        return None

    def _refuse(self, handler, status, message):
        body = json.dumps({"kind": "Status", "code": status, "message": message}).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


def _send(handler, data):
    """Send one line in two chunks: a chunk need not be a line."""
    for part in (data[:7], data[7:]):
        handler.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        handler.wfile.flush()


def _selected(item, query):
    metadata = item["metadata"]
    if selector := query.get("fieldSelector"):
        return selector == f"metadata.name={metadata['name']}"
    pairs = [pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair]
    return all(metadata["labels"].get(key) == value for key, value in pairs)
