"""The benchmark's cells: of which costs they are."""

from benchmarks.policies.cells import CELLS, How, study_of
from eldr_service.lab.simulation.cost import load_cost


def cost(**how):
    (cost,) = {engine.cost for engine in study_of(CELLS[0], (), How(**how)).deployment.engines}
    return cost


def test_whole_steps_unless_others_are_asked_for():
    whole = load_cost(CELLS[0].cost)
    assert cost() is whole
    assert cost(moe_only=True) is load_cost(f"{whole.name}-moe-layers")
    assert cost(beside_experts=2.0) == whole.beside_experts(2.0)
