"""Which prompts share a prefill engine: those that go on alike behind what too many share."""

from collections import Counter

import pytest
from eldr_vllm.proxy.affinity import WINDOW, Affinity
from eldr_vllm.proxy.fleet import Engine
from eldr_vllm.proxy.legs import Leg
from eldr_vllm.proxy.ring import Ring
from scripted_engine import running_rig

ENGINES = [Engine(f"p{number}", f"http://p{number}") for number in range(4)]
SYSTEM = "You are a helpful assistant, and these are your many rules. " * 100  # 6,000 characters
CHAT = "/v1/chat/completions"


class Front:
    """Chooses as a proxy does, one request at a time."""

    def __init__(self) -> None:
        self.affinity, self.ring = Affinity(512), Ring()

    def home(self, path: str, **body) -> str:
        key = self.affinity.key(Leg("r", path, {"model": "m", **body}), len(ENGINES))
        with self.ring.hold(key, ENGINES) as engine:
            return engine.worker_id


def asked(path: str, system: str, turns: list[str]) -> dict:
    """A conversation so far, as this endpoint has it."""
    roles = ("user", "assistant") * len(turns)
    messages = [{"role": r, "content": t} for r, t in zip(roles, turns, strict=False)]
    return {
        CHAT: {"messages": [{"role": "system", "content": system}, *messages]},
        "/v1/messages": {"system": system, "messages": messages},
        "/v1/responses": {"instructions": system, "input": messages},
        "/v1/completions": {"prompt": system + "".join(turns)},
    }[path]


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses", "/v1/completions"])
def test_a_system_prompt_that_all_share_does_not_decide(path):
    front, homes = Front(), Counter()
    for number in range(300):
        homes[front.home(path, **asked(path, SYSTEM, [f"{number}: hello"]))] += 1
    assert len(homes) == len(ENGINES)
    assert max(homes.values()) < 2 * min(homes.values())


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses"])
def test_a_conversation_stays_where_it_is(path):
    front = Front()
    for number in range(50):  # it is known by now what all share
        front.home(path, **asked(path, SYSTEM, [f"before: {number}"]))
    talks = [[f"{number}: hello"] for number in range(60)]
    homes = [set() for _ in talks]
    for turn in range(5):
        for talk, home in zip(talks, homes, strict=True):
            home.add(front.home(path, **asked(path, SYSTEM, talk)))
            talk += [f"an answer {turn} " * 20, f"a question {turn}"]
    assert {len(home) for home in homes} == {1}
    assert len(set.union(*homes)) == len(ENGINES)


def test_the_only_conversation_never_moves():
    front, talk, homes = Front(), ["hello"], set()
    for turn in range(100):
        homes.add(front.home(CHAT, **asked(CHAT, SYSTEM, talk)))
        talk += [f"an answer {turn}", f"a question {turn}"]
    assert len(homes) == 1


def test_a_document_that_questions_are_asked_about_stays_where_it_is():
    """There are twenty of them, so each is less than an engine's share."""
    front = Front()
    homes = [Counter() for _ in range(20)]
    for question in range(30):
        for number, home in enumerate(homes):
            document = f"Document {number}. " * 300
            home[front.home(CHAT, **asked(CHAT, document, [f"question {question}"]))] += 1
    assert {len(home) for home in homes} == {1}


def test_tenants_and_models_share_nothing():
    keys = {
        Affinity(512).key(Leg("r", CHAT, {**asked(CHAT, SYSTEM, ["hi"]), **more}), 4)
        for more in ({}, {"cache_salt": "a"}, {"cache_salt": "b"}, {"model": "m"})
    }
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {}),
        ("/v1/completions", {"prompt": None}),
        ("/v1/completions", {"prompt": []}),
        ("/v1/completions", {"prompt": list(range(5000))}),
        ("/v1/completions", {"prompt": "\ud800"}),
        ("/v1/completions", {"prompt": 7}),
        (CHAT, {"messages": "hello"}),
        (CHAT, {"messages": [None, 7, {"content": [{"text": "\ud800"}]}]}),
        ("/v1/responses", {"input": {"a": 1}, "cache_salt": 7}),
    ],
)
def test_any_prompt_has_a_key(path, body):
    """What is wrong with it is the engine's to say."""
    assert len(Affinity(512).key(Leg("r", path, body), 4)) == 16


def test_what_was_seen_is_forgotten():
    affinity = Affinity(8)
    for number in range(5 * WINDOW):
        affinity.key(Leg("r", "/v1/completions", {"prompt": f"{number} " * 100}), 4)
    assert len(affinity._nodes) <= 2 * WINDOW


async def test_the_proxy_spreads_them():
    async with running_rig(prefills=4) as rig:
        for number in range(200):
            body = asked(CHAT, SYSTEM, [f"{number}: hello"])
            assert (await rig.post(CHAT, **body))[0].status == 200
        # 48 each on average, sd 6: the engines' ports, which the keys are hashed with, are random.
        assert min(len(engine.bodies) for engine in rig.prefill) >= 16
