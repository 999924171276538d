"""A real Kubernetes API server over etcd, without nodes; built from published modules."""

import json
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from certificates import issue
from languages import one_build

SOURCE = Path(__file__).parents[1] / "deploy/apiserver"
VERSION = "1.31.0"  # of its go.mod
START_SECONDS = 120


def built() -> Path:
    """The program's path, built if missing."""
    with one_build("apiserver") as folder:
        program = folder / "kube-apiserver"
        if not program.exists():
            version = "k8s.io/component-base/version.git"
            known = {"Version": f"v{VERSION}", "Major": "1", "Minor": VERSION.split(".")[1]}
            flags = " ".join(f"-X {version}{name}={value}" for name, value in known.items())
            build = ["go", "build", "-ldflags", flags, "-o", str(program), "."]
            subprocess.run(build, cwd=SOURCE, check=True)
        return program


class ApiServer:
    """An API server with RBAC; `token` is an administrator's."""

    token = "administrator"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        etcd, peers, self.port = _free_ports(3)
        self.url = f"https://127.0.0.1:{self.port}"
        authority = issue("authority")
        self.ca, _ = authority.write(folder, "ca")
        certificate, key = issue("apiserver", authority).write(folder, "apiserver")
        accounts, signer = issue("service accounts").write(folder, "accounts")
        tokens = folder / "tokens.csv"
        tokens.write_text(f'{self.token},admin,admin,"system:masters"\n')
        self._start(
            "etcd",
            [str(shutil.which("etcd")), "--data-dir", folder / "etcd",
             "--listen-client-urls", f"http://127.0.0.1:{etcd}",
             "--advertise-client-urls", f"http://127.0.0.1:{etcd}",
             "--listen-peer-urls", f"http://127.0.0.1:{peers}"],
        )  # fmt: skip
        self._start(
            "apiserver",
            [built(), "--etcd-servers", f"http://127.0.0.1:{etcd}", "--bind-address", "127.0.0.1",
             "--secure-port", self.port, "--tls-cert-file", certificate,
             "--tls-private-key-file", key, "--authorization-mode", "RBAC",
             "--token-auth-file", tokens, "--service-cluster-ip-range", "10.96.0.0/16",
             "--service-account-issuer", "https://kubernetes.default.svc",
             "--service-account-key-file", accounts, "--service-account-signing-key-file", signer,
             "--disable-admission-plugins", "ServiceAccount"],
        )  # fmt: skip
        self._context = ssl.create_default_context(cafile=self.ca)
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            assert time.monotonic() < deadline, self.said
            assert all(process.poll() is None for process in self._processes), self.said
            time.sleep(0.2)

    @property
    def said(self) -> str:
        """The ends of both programs' logs."""
        return "\n".join(log.read_text()[-2000:] for log in self._folder.glob("*.log"))

    def call(self, method: str, path: str, body: object = None, kind: str = "json") -> Any:
        """The API's answer; HTTPError if it refuses."""
        request = urllib.request.Request(
            f"{self.url}/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.token}", "Content-Type": f"application/{kind}"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._context) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            error.add_note(error.read().decode())
            raise

    def apply(self, found: dict[str, Any], namespace: str) -> dict[str, Any]:
        """Apply one object server-side, strictly; returns the server's resulting object."""
        group = found["apiVersion"]
        base = f"apis/{group}" if "/" in group else f"api/{group}"
        resources = self.call("GET", base)["resources"]
        [resource] = [r for r in resources if r["kind"] == found["kind"] and "/" not in r["name"]]
        where = found["metadata"].get("namespace", namespace)
        within = f"namespaces/{where}/" if resource["namespaced"] else ""
        path = f"{base}/{within}{resource['name']}/{found['metadata']['name']}"
        query = "?fieldManager=tests&fieldValidation=Strict&force=true"
        applied: dict[str, Any] = self.call("PATCH", path + query, found, "apply-patch+yaml")
        return applied

    def stop(self) -> None:
        """Stop both programs."""
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            process.wait(30)

    def _start(self, name: str, command: list[Any]) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            line = [str(word) for word in command]
            self._processes.append(subprocess.Popen(line, stdout=log, stderr=log))

    def _is_ready(self) -> bool:
        request = urllib.request.Request(
            self.url + "/readyz", headers={"Authorization": f"Bearer {self.token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5, context=self._context) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def documents(text: str) -> list[dict[str, Any]]:
    """The objects of a YAML stream."""
    return [found for found in yaml.safe_load_all(text) if found]
