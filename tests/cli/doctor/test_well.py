"""`eldr doctor` of a deployment where there is nothing to find."""

from deployment import PATIENT, serve, worker
from redis_server import needs_redis, running_redis
from replicas import running_replicas
from wire import Client, eventually


def test_nothing_is_found_where_all_is_well(deployment, examined, eldr_at):
    daemon, client = deployment
    serve(client, 40)
    found = examined(daemon, code=0)
    assert {each["outcome"] for each in found.values()} == {"ok"}, found
    assert len(found) == 25
    said = eldr_at(daemon.grpc)("doctor", "--http", daemon.http)
    assert said.splitlines()[-1] == "0 faults, 0 warnings, 0 not checked, 25 ok"


@needs_redis
def test_nothing_is_found_at_replicas_that_are_well(tmp_path, examined, url):
    with (
        running_redis(tmp_path / "redis") as redis,
        running_replicas("--state", redis.url, *PATIENT) as replicas,
        Client(replicas.daemons[0].grpc) as one,
        Client(replicas.daemons[1].grpc) as other,
    ):
        for worker_id in ("w0", "w1"):
            worker(one, worker_id, url)
        one.fit("m")
        eventually(lambda: len(other.workers("m")) == 2)
        serve(one, 40)
        http = ",".join(daemon.http for daemon in replicas.daemons)
        found = examined(replicas.target, code=0, http=http)
    assert {each["outcome"] for each in found.values()} == {"ok"}, found
