"""What an engine's generation config does to answers that another engine began.

An engine that continues an answer has what is written of it in its prompt, where these defaults do
not count it. A request does not show them, so the engine's registration does, by a label.
"""

from typing import Any

LABEL = "generation-config"

_PENALTIES = ("presence_penalty", "frequency_penalty")


def labels_of(model_config: Any) -> dict[str, str]:
    """The label that names these defaults, of vLLM's ModelConfig; empty if there are none."""
    defaults = model_config.get_diff_sampling_param()
    found = [name for name in _PENALTIES if defaults.get(name)]
    # As vLLM has it, a limit in the model's own file is a default, and any other one holds always.
    limit = (
        model_config.override_generation_config.get("max_new_tokens")
        if model_config.generation_config in ("auto", "vllm")
        else defaults.get("max_tokens")
    )
    if limit:
        found.append("max_new_tokens")
    return {LABEL: ",".join(found)} if found else {}
