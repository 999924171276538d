"""`kv_transfer_config` with ELDR's connector around the one that it names."""

from collections.abc import Mapping
from typing import Any

MODULE = "eldr_vllm.multi"


def with_eldr(transfer: Mapping[str, Any], eldr: Mapping[str, Any]) -> dict[str, Any]:
    """The same transfer, followed by ELDR with these settings.

    It goes by the name MultiConnector, so that vLLM and Ray prepare what the connectors inside
    need. The connector's own `eldr` settings, where a configuration has them, stand before `eldr`.

    Raises
    ------
    ValueError
        It is ELDR's in its other form, which Ray does not see into.
    """
    module = str(transfer.get("kv_connector_module_path") or "")
    extra = dict(transfer.get("kv_connector_extra_config") or {})
    if module.startswith("eldr_vllm.") and transfer["kv_connector"] != "MultiConnector":
        raise ValueError(
            f"kv_connector: expected the connector alone, or MultiConnector with {MODULE}, found "
            f"{transfer['kv_connector']}"
        )
    if transfer["kv_connector"] != "MultiConnector":
        extra = {"connectors": [dict(transfer)]}
    return {
        **transfer,
        "kv_connector": "MultiConnector",
        "kv_connector_module_path": MODULE,
        "kv_connector_extra_config": {**extra, "eldr": {**eldr, **extra.get("eldr", {})}},
    }
