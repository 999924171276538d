"""`kv_transfer_config` with ELDR's connector around the one that it names."""

from collections.abc import Mapping
from typing import Any

MODULE = "eldr_vllm.multi"


def with_eldr(transfer: Mapping[str, Any], eldr: Mapping[str, Any]) -> dict[str, Any]:
    """Return the transfer config with ELDR, with these settings, around its connector.

    It is named MultiConnector, so that vLLM and Ray prepare what the inner connectors need. The
    `eldr` settings of the configuration itself take precedence over `eldr` here.

    Raises
    ------
    ValueError
        Its connector already includes ELDR, but is not a MultiConnector.
    """
    name, module = transfer["kv_connector"], transfer.get("kv_connector_module_path") or ""
    extra = dict(transfer.get("kv_connector_extra_config") or {})
    if name != "MultiConnector" and not module.startswith("eldr_vllm."):
        extra = {"connectors": [dict(transfer)]}
    elif name != "MultiConnector" or module not in ("", MODULE):
        raise ValueError(
            f"kv_connector: expected the connector without ELDR, found {name} of {module}"
        )
    return {
        **transfer,
        "kv_connector": "MultiConnector",
        "kv_connector_module_path": MODULE,
        "kv_connector_extra_config": {**extra, "eldr": {**eldr, **extra.get("eldr", {})}},
    }
