"""`eldr doctor` of a deployment where there is nothing to find."""

from deployment import serve


def test_nothing_is_found_where_all_is_well(deployment, examined, eldr_at):
    daemon, client = deployment
    serve(client, 40)
    found = examined(daemon, code=0)
    assert {each["outcome"] for each in found.values()} == {"ok"}, found
    assert len(found) == 25
    said = eldr_at(daemon.grpc)("doctor", "--http", daemon.http)
    assert said.splitlines()[-1] == "0 faults, 0 warnings, 0 not checked, 25 ok"
