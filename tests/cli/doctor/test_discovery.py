"""`eldr doctor`: sources of workers that cannot be read, planted under a real daemon."""

from contextlib import ExitStack

from dns_server import DnsServer
from fleet_states import become, discovering, fleet_file
from kubernetes_server import KubernetesServer, endpoint

TWO = {"a": "READY", "b": "READY"}


def test_kubernetes_is_away(becomes):
    with ExitStack() as stack:
        server = stack.enter_context(KubernetesServer())
        server.put_service()
        server.put_slice("vllm-1", [endpoint("a", "10.0.0.1"), endpoint("b", "10.0.0.2")])
        flags = "--kubernetes", "ns/vllm:model=m", "--kubernetes-api", server.url
        daemon, client = stack.enter_context(discovering(*flags))
        become(client, TWO)
        assert becomes("ok", "discovery", daemon)["words"] == ("kubernetes:ns/vllm: 2 workers")
        server.status = 403
        server.cut()
        found = becomes("fault", "discovery", daemon)
        assert found["words"].startswith("cannot be read: kubernetes:ns/vllm; ")
        assert "kubectl auth can-i watch endpointslices" in found["fix"]
        server.status = 200
        becomes("ok", "discovery", daemon)


def test_dns_is_away(becomes):
    with DnsServer() as server:
        server.put("decode.test", "A", "10.0.0.1", "10.0.0.2")
        dns = "--dns", "decode.test:model=m,port=8000", "--dns-server", server.address
        with discovering(*dns, "--dns-interval", "0.2") as (daemon, _):
            becomes("ok", "discovery", daemon)
            server.rcode = "SERVFAIL"
            found = becomes("fault", "discovery", daemon)
    assert found["words"].startswith("cannot be read: dns:decode.test; ")
    assert found["fix"].startswith("dig that name where the daemon runs")


def test_one_of_two_daemons_cannot_read_its_fleet_file(tmp_path, becomes):
    """What one reads, the other may not."""
    whole, broken = tmp_path / "whole.toml", tmp_path / "broken.toml"
    for path in (whole, broken):
        path.write_text(fleet_file("a", "b"))
    with (
        discovering("--fleet", str(whole)) as (well, _),
        discovering("--fleet", str(broken)) as (ill, _),
    ):
        http = f"{well.http},{ill.http}"
        found = becomes("ok", "discovery", well, http=http)
        assert found["words"] == "fleet-file: 2 workers"
        broken.write_text("nonsense")
        found = becomes("fault", "discovery", well, http=http)
    assert "cannot be read: fleet-file" in found["words"]
    assert "docs/discovery.md" in found["fix"]
