"""`kv_transfer_config` with ELDR's connector around the one that it names."""

from collections.abc import Mapping
from typing import Any

MODULE = "eldr_vllm.multi"


def with_eldr(transfer: Mapping[str, Any], eldr: Mapping[str, Any]) -> dict[str, Any]:
    """The same transfer, followed by ELDR with these settings.

    It goes by the name MultiConnector, so that vLLM and Ray prepare what the connectors inside
    need. What the configuration itself says in `eldr` stands before the settings here.

    Raises
    ------
    ValueError
        Its connector is one that Ray and vLLM would not see through.
    """
    name, module = transfer["kv_connector"], transfer.get("kv_connector_module_path") or ""
    extra = dict(transfer.get("kv_connector_extra_config") or {})
    if name != "MultiConnector" and not module.startswith("eldr_vllm."):
        extra = {"connectors": [dict(transfer)]}
    elif name != "MultiConnector" or module not in ("", MODULE):
        raise ValueError(
            f"kv_connector: expected one of vLLM's, or your own alone, found {name} of {module}"
        )
    return {
        **transfer,
        "kv_connector": "MultiConnector",
        "kv_connector_module_path": MODULE,
        "kv_connector_extra_config": {**extra, "eldr": {**eldr, **extra.get("eldr", {})}},
    }
