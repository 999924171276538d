"""What a decode step costs: experts read, sequences, context. Costs are data, one file each."""

import tomllib
from dataclasses import KW_ONLY, dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from eldr_service.core.errors import did_you_mean
from eldr_service.kernels.compiling import kept
from eldr_service.lab.recordings import read_engine_files
from eldr_service.lab.simulation.step_fit import fit_steps

Coefficients = tuple[float, float, float, float, float]
Microseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class StepCost:
    """A step's time; the same line for every MoE layer.

    ``fixed_us + layers * (per_layer_us + per_sequence_us * batch size
    + per_context_token_us * context tokens) + per_expert_us * active experts of all layers``

    Attributes
    ----------
    name : str
    per_layer_us : float
        Microseconds per layer for any batch.
    per_expert_us : float
        Microseconds to read each distinct expert's weights.
    per_sequence_us : float
        Microseconds per layer for each sequence in the batch.
    per_context_token_us : float
        Microseconds per layer for each token of context over all sequences: attention.
    fixed_us : float
        Microseconds per step outside its layers.
    source : str
        Origin of the numbers, their error, and assumptions.

    Raises
    ------
    ValueError
        A step would take no time, so virtual time would stand still.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    _: KW_ONLY
    per_layer_us: Microseconds
    per_expert_us: Microseconds
    per_sequence_us: Microseconds = 0.0
    per_context_token_us: Microseconds = 0.0
    fixed_us: Microseconds = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        fixed, layer, expert, sequence, _ = self.coefficients
        if min(self.coefficients) < 0 or not 0 < fixed + layer + expert + sequence < np.inf:
            raise ValueError(f"{self.name}: costs must be finite and not negative, one positive")

    @property
    def coefficients(self) -> Coefficients:
        """Microseconds, as `step_seconds` takes them."""
        return (
            self.fixed_us,
            self.per_layer_us,
            self.per_expert_us,
            self.per_sequence_us,
            self.per_context_token_us,
        )

    def beside_experts(self, times: float) -> "StepCost":
        """The same, with everything that does not depend on the experts `times` as long."""
        return replace(
            self,
            name=f"{self.name}, {times:g} times all but the experts",
            fixed_us=self.fixed_us * times,
            per_layer_us=self.per_layer_us * times,
            per_sequence_us=self.per_sequence_us * times,
            per_context_token_us=self.per_context_token_us * times,
        )

    def step_seconds(
        self, active_experts: NDArray[np.integer], batch_size: int, context_tokens: int = 0
    ) -> float:
        """Seconds of one step; active_experts [layers] are the distinct experts of each layer."""
        layers, total = len(active_experts), int(active_experts.sum())
        return float(step_seconds(self.coefficients, layers, total, batch_size, context_tokens))


@kept
def step_seconds(
    cost: Coefficients, layers: int, active_experts: int, batch_size: int, context_tokens: int
) -> float:
    """Seconds of one step; active_experts is the sum over the layers."""
    fixed, per_layer, per_expert, per_sequence, per_context_token = cost
    layer = per_layer + per_sequence * batch_size + per_context_token * context_tokens
    return 1e-6 * (fixed + layers * layer + per_expert * active_experts)


@cache
def built_in_costs() -> dict[str, StepCost]:
    """The cost models that ship with the project, by name; `tools/fit_costs.py` fitted them."""
    folder = files(__package__) / "costs"
    texts = {f.name.removesuffix(".toml"): f.read_text("utf-8") for f in folder.iterdir()}
    return {name: _parsed(name, texts[name]) for name in sorted(texts)}


def moe_layers(name: str) -> StepCost | None:
    """The MoE layers alone of a built-in cost model; None if not measured separately."""
    return built_in_costs().get(f"{name}-moe-layers")


def load_cost(name: str) -> StepCost:
    """A cost model by its built-in name, or from a TOML file of `StepCost`'s attributes.

    A folder holds engines' recordings (docs/recording.md): the cost is fitted to their steps.

    Raises
    ------
    ValueError
        There is no such name or file, or the file is invalid.
    """
    if name in built_in_costs():
        return built_in_costs()[name]
    path = Path(name)
    if path.is_dir():
        return _fitted(path)
    if not path.is_file():
        names = built_in_costs()
        meant = did_you_mean(name, names)
        raise ValueError(f"{name}: neither a file nor one of {', '.join(names)}{meant}")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 text: {error}") from error
    return _parsed(path.stem, text, name)


@cache
def _fitted(folder: Path) -> StepCost:
    files = read_engine_files(folder)
    try:
        fit = fit_steps(files["steps.times"][:, 1], files["steps.sizes"])
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    layers = files.num_layers
    return StepCost(
        f"the recorded steps of {files.model}",
        per_layer_us=0.0,  # a recording does not separate it from the time outside the layers
        per_expert_us=fit.per_expert_us,
        per_sequence_us=fit.per_sequence_us / layers,
        fixed_us=fit.fixed_us,
        source=f"Fitted: {fit.quality()}",
    )


def _parsed(name: str, text: str, where: str = "") -> StepCost:
    try:
        cost: StepCost = TypeAdapter(StepCost).validate_python(
            {"name": name, **tomllib.loads(text)}
        )
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where}: not TOML: {error}") from error
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'costs'}: {e['msg']}" for e in error.errors()
        )
        raise ValueError(f"{where}: {found}") from error
    return cost
