"""Types of settings: each parses its text, or says what was expected."""

import os
import re
from importlib.metadata import entry_points
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from eldr_service.core.errors import did_you_mean
from eldr_service.server.address import Address
from eldr_service.server.origins import Origin, dns_origins, kubernetes_origins
from eldr_service.stores.shared.address import StateAddress

MEMORY = ":memory:"


def readable_file(path: Path) -> Path:
    """Check that a file is readable; return its path with `~` expanded."""
    path = path.expanduser()
    if not path.is_file() or not os.access(path, os.R_OK):
        raise ValueError("expected a file that exists and can be read")
    return path


def _key_source(text: str) -> str:
    """Check the form of a file or URL."""
    if "://" not in text:
        return str(readable_file(Path(text)))
    return _safe_url(text, "a file, ")


def _safe_url(text: str, or_else: str = "") -> str:
    """Check the form of a URL; over plain HTTP anyone on the way could read and answer."""
    scheme, _, rest = text.partition("://")
    host = re.split("[/?#]", rest)[0]
    if scheme == "https" and host and "@" not in host:  # settings are logged: no secret in them
        return text
    if scheme == "http" and re.fullmatch(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", host):
        return text
    raise ValueError(
        f"expected {or_else}an https:// URL without a password, or an http:// URL on this machine"
    )


def _name_server(text: object) -> Address:
    address = Address.parse(text)
    try:
        ip_address(address.host)
    except ValueError:
        raise ValueError("expected IP:PORT") from None
    return address


def _directory(path: Path) -> Path:
    path = path.expanduser()
    if path.exists() and not path.is_dir():
        raise ValueError("expected a directory (it is made if missing)")
    return path


def _state(text: object) -> Path | StateAddress | None:
    if text is None or text == MEMORY:
        return None
    if not isinstance(text, str | Path) or not str(text):
        raise ValueError(f"expected a directory, {MEMORY} or a URL")
    if "://" in str(text):
        return StateAddress.parse(str(text))
    path = Path(text).expanduser()
    if path.exists() and not path.is_dir():
        raise ValueError(f"expected a directory (it is made if missing) or {MEMORY}")
    return path


def default_state() -> Path:
    """Where state is kept by default."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "eldr"


def _policy(text: str) -> str:
    """Check syntax and name; the policy checks its own parameters."""
    name, *parameters = re.split("[:,]", text)
    if not re.fullmatch(r"[^:,=\s]+(:[^:,=\s]+=[^:,]+(,[^:,=\s]+=[^:,]+)*)?", text):
        raise ValueError("expected NAME or NAME:key=value,key=value")
    installed = sorted(point.name for point in entry_points(group="eldr.policies"))
    if name not in installed:
        raise ValueError(f"expected one of {', '.join(installed)}{did_you_mean(name, installed)}")
    keys = [parameter.partition("=")[0] for parameter in parameters]
    if len(set(keys)) < len(keys):
        raise ValueError("expected each parameter once")
    return text


ListenAddress = Annotated[Address, BeforeValidator(Address.parse)]
ReadableFile = Annotated[Path, AfterValidator(readable_file)]
Directory = Annotated[Path, AfterValidator(_directory)]
SafeUrl = Annotated[str, AfterValidator(_safe_url)]
KubernetesOrigins = Annotated[tuple[Origin, ...], BeforeValidator(kubernetes_origins)]
DnsOrigins = Annotated[tuple[Origin, ...], BeforeValidator(dns_origins)]
NameServer = Annotated[Address, BeforeValidator(_name_server)]
KeySource = Annotated[str, AfterValidator(_key_source)]
State = Annotated[Path | StateAddress | None, BeforeValidator(_state)]
PolicyChoice = Annotated[str, AfterValidator(_policy)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
