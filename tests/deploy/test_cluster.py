"""The chart and the discovery, at a real API server; `make cluster-check` runs this.

It is built from Kubernetes' modules, which takes long, and has no nodes: what is applied is
validated, defaulted and kept, and no pod runs.
"""

import os
import urllib.error

import pytest
from api_server import ApiServer, documents
from charts import CHART, operators_definitions, render
from fleet_states import become, discovering, said, states

VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("ELDR_CLUSTER_TESTS"),
        reason="compiles a Kubernetes API server and needs etcd: `make cluster-check` runs it",
    ),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = ApiServer(tmp_path_factory.mktemp("cluster"))
    yield server
    server.stop()


def namespace(server, name):
    server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, name)
    return name


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem.removesuffix("-values"))
def test_what_the_chart_renders_is_taken(server, values):
    place = namespace(server, values.stem)
    for definition in operators_definitions():
        server.apply(definition, "")
    for found in documents(
        render("--values", values, "--api-versions", "monitoring.coreos.com/v1")
    ):
        found["metadata"].pop("namespace", None)
        applied = server.apply(found, place)
        assert applied["metadata"]["uid"]
        again = server.apply(found, place)
        assert again["metadata"]["resourceVersion"] == applied["metadata"]["resourceVersion"]


def test_a_wrong_field_is_refused(server):
    place = namespace(server, "wrong")
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
    with pytest.raises(urllib.error.HTTPError, match=r"HTTP Error (400|422|500)"):
        server.apply({**service, "spec": {"prots": []}}, place)


def slice_of(*pods, **conditions):
    """An EndpointSlice as the control plane writes them."""
    conditions = {"ready": True, "serving": True, "terminating": False, **conditions}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "decode-1", "labels": {"kubernetes.io/service-name": "decode"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [f"10.1.0.{number}"],
                "conditions": conditions,
                "targetRef": {"kind": "Pod", "name": pod, "namespace": "serving"},
            }
            for number, pod in enumerate(pods, 1)
        ],
    }


def test_workers_are_found_with_the_charts_own_rights(server, tmp_path):
    place = namespace(server, "serving")
    shown = render("--values", CHART / "ci/discovery-values.yaml")
    for found in documents(shown):
        if found["kind"] in ("ServiceAccount", "Role", "RoleBinding"):
            server.apply(found, place)
    for name in ("decode", "prefill"):
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}}
        server.apply({**service, "spec": {"ports": [{"port": 8000}]}}, place)
    path = f"api/v1/namespaces/{place}/serviceaccounts/eldr/token"
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = tmp_path / "token"
    token.write_text(server.call("POST", path, asked)["status"]["token"])
    server.apply(slice_of("p0", "p1"), place)
    places = f"{place}/decode:model=m,geometry=2x16x2;{place}/prefill:model=m,role=prefill"
    flags = ["--kubernetes", places, "--kubernetes-api", server.url]
    flags += ["--kubernetes-token", str(token), "--kubernetes-ca", str(server.ca)]
    with discovering(*flags) as (daemon, client):
        become(client, {"p0": "READY", "p1": "READY"})
        assert client.workers("m")["p1"].url == "http://10.1.0.2:8000"
        server.apply(slice_of("p0", "p1", "p2"), place)
        become(client, {"p0": "READY", "p1": "READY", "p2": "READY"})
        server.apply(slice_of("p0", "p1", "p2", ready=False, terminating=True), place)
        become(client, {"p0": "DRAINING", "p1": "DRAINING", "p2": "DRAINING"})
        server.call(
            "DELETE", f"apis/discovery.k8s.io/v1/namespaces/{place}/endpointslices/decode-1"
        )
        become(client, {})
        assert not said(daemon, "source not read, or not in full: its last known workers stay")
    token.write_text("no token")
    with discovering(*flags) as (daemon, client):
        assert states(client) == {}
        assert said(daemon, "source not read yet: its workers of an earlier run stay")
