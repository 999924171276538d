"""The URL of a shared state."""

import pytest

from eldr_service.stores.shared.address import StateAddress


@pytest.mark.parametrize(
    ("text", "kind", "tls", "hosts", "rest"),
    [
        ("redis://a", "redis", False, (("a", 6379),), {}),
        ("valkeys://a:1/3", "redis", True, (("a", 1),), {"database": 3}),
        ("redis://[::1]:7/2?name=x", "redis", False, (("::1", 7),), {"database": 2, "name": "x"}),
        ("redis+cluster://a:1,b", "cluster", False, (("a", 1), ("b", 6379)), {}),
        (
            "rediss+sentinel://a,b:2/main/4",
            "sentinel",
            True,
            (("a", 26379), ("b", 2)),
            {"service": "main", "database": 4},
        ),
    ],
)
def test_addresses(text, kind, tls, hosts, rest):
    address = StateAddress.parse(text)
    assert (address.kind, address.tls, address.hosts) == (kind, tls, hosts)
    for name in ("database", "service", "name"):
        default = {"database": 0, "service": "", "name": "eldr"}[name]
        assert getattr(address, name) == rest.get(name, default)
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://a", "redis://HOST:PORT/DB"),
        ("redis://", "redis://HOST:PORT/DB"),
        ("redis://:secret@a", "without a password"),
        ("redis://a,b", "one host"),
        ("redis://a:b", "redis://HOST:PORT/DB"),
        ("redis://a/b", "redis://HOST:PORT/DB"),
        ("redis+cluster://a/1", "redis://HOST:PORT/DB"),
        ("redis+sentinel://a", "the service's name"),
        ("redis://a?name=", "?name=NAME"),
        ("redis://a?name={x}", "?name=NAME"),
        ("redis://a?db=1", "?name=NAME"),
    ],
)
def test_what_is_no_address(text, expected):
    with pytest.raises(ValueError, match=f".*{expected.replace('?', '[?]')}"):
        StateAddress.parse(text)
