"""Blocks, lambdas, futures and contexts of Java release with the right outcome, over TLS."""

import subprocess

import grpc
import pytest
from certificates import issue
from eldr.v1.router_pb2 import ReleaseOutcome
from languages import needs_maven
from programs import java_classpath
from scripted_router import ScriptedRouter

ENDS = {
    "completed": "COMPLETED",
    "thrown": "FAILED",
    "interrupted": "CANCELLED",
    "interrupted in a lambda": "CANCELLED",
    "returned": "COMPLETED",
    "hangs, its future is cancelled": "CANCELLED",
    "hangs, its context is cancelled": "CANCELLED",
    "future": "COMPLETED",
}


@pytest.mark.timeout(900)  # messages are generated and compiled, once
@needs_maven
def test_every_way_out_releases_once(tmp_path):
    authority = issue("authority")
    identity = issue("router", authority)
    certificate, _ = authority.write(tmp_path, "authority")
    router = ScriptedRouter()

    def route(request, context):
        hangs = request.request_id.startswith("hangs")
        return (router.hang if hangs else router._Route)(request, context)

    router.script["Route"] = route
    tls = grpc.ssl_server_credentials([(identity.key, identity.chain)])
    router.start(tls)
    try:
        done = subprocess.run(
            ["java", "-cp", java_classpath(), "eldr.client.Idioms", router.target, certificate],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        router.stop()
    assert done.stdout == "done\n", done.stderr
    releases = router.requests("Release")
    ends = {
        each.request_id: ReleaseOutcome.Name(each.outcome).removeprefix("RELEASE_OUTCOME_")
        for each in releases
    }
    assert ends == ENDS
    assert len(releases) == len(ENDS)
    assert [each.output_tokens for each in releases if each.request_id == "completed"] == [7]
    assert {each["authorization"] for each in router.metadata} == {"Bearer secret"}
