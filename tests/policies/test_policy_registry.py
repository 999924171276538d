import re
import sys
from pathlib import Path

import pytest

from eldr_service.core.errors import FailedPreconditionError, InvalidArgumentError
from eldr_service.policies import registry

OWN = {
    "round-robin": {"load": "sequences"},
    "random": {"load": "sequences", "seed": "0"},
    "join-shortest-queue": {"load": "sequences", "seed": "0"},
    "power-of-two-choices": {"load": "sequences", "seed": "0"},
    "locality": {"load": "sequences", "min_coverage": "0.5"},
    "locality-band": {
        "load": "sequences",
        "min_band": "2",
        "min_coverage": "0.5",
        "tau": "0.1",
    },
    "marginal-cost": {
        "load": "sequences",
        "min_coverage": "0.5",
        "move_seconds": "0.005",
        "moves": "false",
        "tail": "0.05",
        "token_transfer_us": "2.0",
    },
    "domain-oracle": {"load": "sequences"},
}


@pytest.mark.parametrize("name", OWN)
def test_own_policies_and_their_defaults(name):
    policy = registry.installed()[name]
    assert policy.distribution == "eldr-service"
    assert policy.error is None
    assert policy.description
    assert {p.name: p.default for p in policy.parameters if p.default} == OWN[name]
    assert all(p.description and p.allowed for p in policy.parameters)
    created = registry.create(name, {})
    assert created.name == name
    assert registry.parameters_of(created) == OWN[name]


def test_listing_is_in_order_of_names_and_imports_nothing():
    policies = registry.installed()
    assert list(policies) == sorted(policies)
    assert not any("_loaded" in vars(policy) for policy in policies.values())


def test_parameters_say_what_may_be_written():
    allowed = {p.name: p.allowed for p in registry.installed()["locality-band"].parameters}
    assert allowed == {
        "load": "one of sequences, tokens, kv",
        "min_band": "an integer, 1 to 64",
        "min_coverage": "a number, 0 to 1",
        "tau": "a number, 0 to 2",
        "width": "a number, 0 to 10",
    }
    seed = registry.installed()["random"].parameters[-1]
    assert seed.allowed == "an integer, at least 0"


def test_written_parameters_make_the_same_policy():
    policy = registry.create("locality-band", {"tau": "0.25", "load": "kv"})
    assert (policy.parameters.tau, policy.parameters.load) == (0.25, "kv")
    written = registry.parameters_of(policy)
    assert registry.create("locality-band", written).parameters == policy.parameters


def test_a_width_stands_in_place_of_tau():
    policy = registry.create("locality-band", {"width": "0.35"})
    assert (policy.parameters.width, policy.parameters.tau) == (0.35, None)
    written = registry.parameters_of(policy)
    assert "tau" not in written
    assert registry.create("locality-band", written).parameters == policy.parameters
    with pytest.raises(InvalidArgumentError, match="either tau or width, not both") as caught:
        registry.create("locality-band", {"width": "0.35", "tau": "0.1"})
    assert caught.value.field == "parameters"


def test_a_changed_parameter_takes_the_place_of_what_it_excludes():
    logged = {"load": "kv", "tau": "0.1"}
    assert registry.changed("locality-band", logged, {"width": "1"}) == {"load": "kv", "width": "1"}
    assert registry.changed("locality-band", logged, {"tau": "0"}) == {"load": "kv", "tau": "0"}
    assert registry.changed("random", {"seed": "1"}, {"load": "kv"}) == {"seed": "1", "load": "kv"}


def test_unknown_name_says_which_there_are():
    with pytest.raises(InvalidArgumentError) as caught:
        registry.create("localty-band", {})
    assert caught.value.field == "name"
    assert caught.value.found == "localty-band"
    assert str(caught.value).endswith("found localty-band; did you mean locality-band?")
    assert all(name in caught.value.expected for name in OWN)


@pytest.mark.parametrize(
    ("name", "parameters", "field", "expected", "found"),
    [
        ("random", {"tau": "0.1"}, "tau", "a parameter of random (load, seed)", "tau"),
        ("random", {"seed": "-1"}, "seed", "an integer, at least 0", "-1"),
        ("random", {"seed": "1.5"}, "seed", "an integer, at least 0", "1.5"),
        ("random", {"load": "bytes"}, "load", "one of sequences, tokens, kv", "bytes"),
        ("locality-band", {"tau": "wide"}, "tau", "a number, 0 to 2", "wide"),
        ("locality-band", {"tau": ""}, "tau", "a number, 0 to 2", ""),
        ("locality-band", {"tau": "2.01"}, "tau", "a number, 0 to 2", "2.01"),
        ("locality-band", {"tau": "nan"}, "tau", "a number, 0 to 2", "nan"),
        ("locality-band", {"width": "-1"}, "width", "a number, 0 to 10", "-1"),
        ("locality", {"min_coverage": "-0.1"}, "min_coverage", "a number, 0 to 1", "-0.1"),
    ],
)
def test_wrong_parameter_says_what_was_expected_and_what_came(
    name, parameters, field, expected, found
):
    with pytest.raises(InvalidArgumentError) as caught:
        registry.create(name, parameters)
    error = caught.value
    assert (error.field, error.expected, error.found) == (f"parameters.{field}", expected, found)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("random", ("random", {})),
        ("locality-band:tau=0.2", ("locality-band", {"tau": "0.2"})),
        (" locality : tau = 0.2 , load = kv ", ("locality", {"tau": "0.2", "load": "kv"})),
        ("x:a=b=c", ("x", {"a": "b=c"})),
        ("x:a=", ("x", {"a": ""})),
    ],
)
def test_parse(text, parsed):
    assert registry.parse(text) == parsed


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "name"),
        (":tau=1", "name"),
        ("x:", "parameters"),
        ("x:tau", "parameters"),
        ("x:=1", "parameters"),
        ("x:a=1,", "parameters"),
        ("x:a=1,a=2", "parameters.a"),
    ],
)
def test_what_cannot_be_parsed_says_where(text, field):
    with pytest.raises(InvalidArgumentError) as caught:
        registry.parse(text)
    assert caught.value.field == field


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Puts a distribution with one policy on the path, as if pip had installed it there."""

    def install(distribution, name, code):
        module = re.sub(r"\W", "_", distribution)
        info = tmp_path / distribution / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[eldr.policies]\n{name} = {module}:Plugged\n")
        (info.parent / f"{module}.py").write_text(PREAMBLE + code)
        sys.modules.pop(module, None)
        monkeypatch.syspath_prepend(info.parent)

    yield install
    registry.policy_class.cache_clear()  # other plugins will have this one's name


PREAMBLE = """
from typing import Literal
from pydantic import Field, field_validator, model_validator
from eldr_service.policies import Decision, Policy, PolicyParameters

class Base(Policy):
    name, description = "plugged", "the first one"
    def pick(self, request, fleet):
        return Decision(0)
"""


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import a_module_that_is_not_there", "ModuleNotFoundError"),
        ("1 / 0", "ZeroDivisionError"),
        ("", "AttributeError"),
        ("Plugged = dict", "not a subclass"),
        ("Plugged = Policy", "does not define pick"),
        ("class Plugged(Base): name = 'other'", "called plugged, but its class other"),
        ("class Plugged(Base): description = None", "description is not a string"),
        (
            "class Odd(PolicyParameters): call: type = dict\nclass Plugged(Base): Parameters = Odd",
            "JsonSchema",
        ),
    ],
)
def test_broken_plugin_is_listed_with_its_error_and_takes_nobody_down(plugin, code, error):
    plugin("faulty", "plugged", code)
    policies = registry.installed()
    assert set(policies) >= {*OWN, "plugged"}
    assert error in policies["plugged"].error
    assert policies["plugged"].description == ""
    assert policies["plugged"].parameters == ()
    assert policies["random"].error is None
    with pytest.raises(
        FailedPreconditionError, match="policy plugged of distribution faulty is broken"
    ):
        registry.create("plugged", {})
    registry.create("random", {})


@pytest.mark.filterwarnings("ignore:policy random of distribution aaa:UserWarning")
def test_nobody_takes_over_a_name_of_the_projects_own(plugin):
    plugin("aaa", "random", "class Plugged(Base): name = 'random'")
    assert registry.installed()["random"].distribution == "eldr-service"


def test_of_two_plugins_with_one_name_the_first_by_name_wins_with_a_warning(plugin):
    for distribution in ("zeta", "alpha", "mu"):  # the last one is first on the path
        plugin(distribution, "plugged", "class Plugged(Base): pass")
    with pytest.warns(UserWarning, match="is ignored: alpha provides one") as caught:
        assert registry.installed()["plugged"].distribution == "alpha"
    assert len(caught) == 2


def test_a_plugins_own_parameters_are_checked_in_the_same_words(plugin):
    plugin(
        "choosy",
        "plugged",
        """
class Choosy(PolicyParameters):
    fast: bool = Field(True, description="whether to hurry")
    word: str = "hello"
    share: float = Field(0.5, gt=0, lt=1)
    needed: int = Field(le=9)

    @field_validator("word")
    def polite(cls, word):
        if word == "no":
            raise ValueError("anything but no")
        return word

    @model_validator(mode="after")
    def together(self):
        if self.fast and self.share > 0.9:
            raise ValueError("share at most 0.9 with fast")
        return self

class Plugged(Base):
    Parameters = Choosy
""",
    )
    told = {p.name: (p.default, p.allowed) for p in registry.installed()["plugged"].parameters}
    assert told == {
        "load": ("sequences", "one of sequences, tokens, kv"),
        "fast": ("true", "true or false"),
        "word": ("hello", "text"),
        "share": ("0.5", "a number, above 0, below 1"),
        "needed": ("", "an integer, at most 9"),
    }
    for given, field, expected in (
        ({}, "parameters.needed", "an integer, at most 9"),
        ({"needed": "1", "word": "no"}, "parameters.word", "anything but no"),
        ({"needed": "1", "share": "0.95"}, "parameters", "share at most 0.9 with fast"),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            registry.create("plugged", given)
        assert caught.value.field == field
        assert expected in caught.value.expected
    policy = registry.create("plugged", {"needed": "1", "fast": "false"})
    assert registry.parameters_of(policy)["fast"] == "false"


def test_a_plugin_that_cannot_be_made_says_so(plugin):
    code = "class Plugged(Base):\n    def __init__(self, parameters): raise OSError('no such file')"
    plugin("stubborn", "plugged", code)
    with pytest.raises(FailedPreconditionError, match="plugged cannot be created: no such file"):
        registry.create("plugged", {})


def test_readme_lists_every_policy_and_its_parameters():
    readme = Path(registry.__file__).with_name("README.md").read_text()
    table = {}
    for cells in re.findall(r"^\| `([\w-]+)`[^|]*\|[^|]*\|([^|]*)\| (yes|no) \|$", readme, re.M):
        table[cells[0]] = (set(re.findall(r"`(\w+)`", cells[1])), cells[2] == "yes")
    assert set(table) == set(OWN)
    for name, (parameters, needs_signature) in table.items():
        assert parameters == {p.name for p in registry.installed()[name].parameters}
        assert registry.installed()[name].load().needs_signature == needs_signature
