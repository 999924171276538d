"""What a policy has learned is there when it is put in force again."""

import numpy as np
import pytest
from small_daemon import MODEL, SmallDaemon, counts_on

from eldr_service.policies.marginal_cost import MarginalCost
from eldr_service.policies.registry import create


@pytest.fixture
def daemon():
    daemon = SmallDaemon()
    daemon.join("w0", "w1")
    daemon.activate()
    daemon.model.set_policy(create("marginal-cost", {}))
    return daemon


def lives(daemon, name, expert):
    """A request from its placement to its end, and a report meanwhile."""
    daemon.route(name, counts=counts_on(expert))
    number = int(name[1:])
    daemon.report(
        "w0", number, active_experts=2.0 + number % 3, batch_size=1.0 + number % 4,
        step_seconds=0.01 + 0.002 * (number % 3),
    )  # fmt: skip
    daemon.router.release(
        MODEL, name, 0, daemon.now, output_tokens=10, decode_seconds=1.0,
        decode_counts=counts_on(expert),
    )  # fmt: skip


def test_learned_state_survives_a_switch_to_another_policy_and_back(daemon):
    for number in range(12):
        lives(daemon, f"r{number}", number % 4)
    before = daemon.model.policy
    daemon.model.set_policy(create("join-shortest-queue", {}))
    lives(daemon, "r12", 0)  # of which it knows nothing
    daemon.route("living", counts=counts_on(1))
    daemon.model.set_policy(create("marginal-cost", {"tail": "0.3"}))
    after = daemon.model.policy
    assert after is not before
    assert isinstance(after, MarginalCost)
    assert after.parameters.tail == 0.3
    assert after.cost.learned
    assert after.cost.coefficients == before.cost.coefficients
    assert list(after.experts.known.held) == [("living", 0)]
    assert after.experts.known.prediction.state()["seen"][1] == 12  # decodes
    for name, array in before.experts.known.prediction.state().items():
        if name not in ("seen", "mean"):  # the living request's prefill is in these
            np.testing.assert_array_equal(after.experts.known.prediction.state()[name], array)


def test_policies_do_not_learn_from_each_other(daemon):
    lives(daemon, "r1", 0)
    daemon.model.set_policy(create("locality-band", {}))
    daemon.model.set_policy(create("power-of-two-choices", {}))
    assert daemon.route("r2", counts=counts_on(0)).policy == "power-of-two-choices"


class Forgetful(MarginalCost):
    """Cannot say what it has learned, nor take it over."""

    name = "forgetful"

    def learned(self):
        raise RuntimeError("lost")

    def relearn(self, learned):
        raise RuntimeError("lost")


def test_a_policy_that_fails_to_is_put_in_force_all_the_same(daemon):
    daemon.model.set_policy(Forgetful())
    lives(daemon, "r1", 0)
    daemon.model.set_policy(create("marginal-cost", {}))
    daemon.model.set_policy(Forgetful())
    assert daemon.route("r2", counts=counts_on(0)).policy == "forgetful"
