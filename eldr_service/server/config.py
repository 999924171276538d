"""The daemon's settings: flags override environment, which overrides file and defaults."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    TomlConfigSettingsSource,
)

from eldr_service.core.errors import did_you_mean
from eldr_service.server.address import Address
from eldr_service.server.flags import flag, read_flags, refuse
from eldr_service.server.options import PREFIX, ModelDeclaration, Options
from eldr_service.server.values import readable_file
from eldr_service.stores.shared.address import StateAddress

__all__ = ["Address", "ModelDeclaration", "Settings", "load_settings"]


class _File(TomlConfigSettingsSource):
    """The TOML file; its keys may be spelled like flags."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        table = super()._read_file(file_path)
        if "config" in table:
            raise ValueError("config: a file cannot name another file")
        return {key.replace("-", "_"): value for key, value in table.items()}


class Settings(Options):
    """The daemon's settings at its start; `load_settings` supplies the flags."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the file that either of them names."""
        assert isinstance(init_settings, InitSettingsSource)
        path = _config_path(init_settings.init_kwargs)
        file = _File(settings_cls, path and readable_file(path))
        return init_settings, env_settings, file

    @property
    def tls(self) -> bool:
        """Whether the gRPC port uses TLS."""
        return self.tls_cert is not None

    @model_validator(mode="after")
    def _fit_together(self) -> "Settings":
        if (self.tls_cert is None) != (self.tls_key is None):
            there, missing = ("tls-cert", "tls-key") if self.tls else ("tls-key", "tls-cert")
            raise ValueError(f"--{there} needs --{missing}")
        if self.tls_client_ca and not self.tls:
            raise ValueError("--tls-client-ca needs --tls-cert and --tls-key")
        if self.jwks and not (self.jwt_issuer and self.jwt_audience):
            raise ValueError(
                "--jwks needs --jwt-issuer and --jwt-audience: without them it would accept tokens"
                " issued for others"
            )
        if not self.jwks and (self.jwt_issuer or self.jwt_audience):
            raise ValueError("--jwt-issuer and --jwt-audience need --jwks")
        for name in ("kubernetes_api", "kubernetes_token", "kubernetes_ca"):
            if getattr(self, name) and not self.kubernetes:
                raise ValueError(f"{flag(name)} needs --kubernetes")
        if self.dns_server and not self.dns:
            raise ValueError("--dns-server needs --dns")
        if self.report_limit < self.report_interval:
            raise ValueError("--report-limit must not be shorter than --report-interval")
        if self.decision_log and isinstance(self.state, StateAddress):
            raise ValueError(
                "--decision-log needs a --state of this daemon alone: what other replicas did is"
                " not in the log, and a replay without it would differ"
            )
        if self.state_password and not isinstance(self.state, StateAddress):
            raise ValueError("--state-password needs a --state URL")
        if self.suspect_after < self.report_interval:
            raise ValueError("--suspect-after must not be shorter than --report-interval")
        names = [model.name for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError("models: a model is declared twice")
        for name, address in (("--listen", self.listen), ("--admin-listen", self.admin_listen)):
            if address and not address.loopback and not self.insecure:
                self._refuse_strangers(name, address)
        return self

    def _refuse_strangers(self, name: str, address: Address) -> None:
        where = f"{name} {address} is not a loopback address"
        if (self.tokens or self.jwks) and not self.tls:
            raise ValueError(
                f"{where}, and without TLS tokens could be intercepted: give --tls-cert and"
                " --tls-key, or --insecure"
            )
        if not (self.tokens or self.jwks or self.tls_client_ca):
            raise ValueError(
                f"{where}, and without credentials anyone who reaches it may call: give"
                " --tls-cert and --tls-key with --tokens, --jwks or --tls-client-ca, or"
                " --insecure"
            )


def load_settings(argv: list[str]) -> Settings:
    """Read the settings from flags, environment and file.

    Raises
    ------
    SystemExit
         0 after --help or --version; 2 after a message on stderr that says what is wrong and what
        was expected.
    """
    options = {name: field for name, field in Settings.model_fields.items() if name != "models"}
    flags: dict[str, Any] = dict(read_flags(argv, options))
    try:
        return Settings(**flags)
    except ValidationError as error:
        refuse(*(_explain(details, flags) for details in error.errors(include_url=False)))
    except ValueError as error:  # the file: its path, encoding or TOML
        refuse(f"configuration {_config_path(flags)}: {error}")


def _config_path(flags: Mapping[str, Any]) -> Path | None:
    path = flags.get("config") or os.environ.get(_variable("config"))
    return Path(path) if path else None


def _variable(field: str) -> str:
    return PREFIX + field.upper()


def _explain(error: ErrorDetails, flags: Mapping[str, Any]) -> str:
    """Describe an error, with the flag, variable or place in the file where it is."""
    if not error["loc"]:
        return error["msg"].removeprefix("Value error, ")
    field, *path = error["loc"]
    inside = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    if field in flags:
        origin = flag(str(field))
    elif os.environ.get(_variable(str(field))):
        origin = _variable(str(field))
    else:
        origin = f"{field}{inside} in {_config_path(flags)}"
    kind, found = error["type"], error["input"]
    if kind == "missing":
        return f"{origin}: missing"
    if kind == "extra_forbidden":
        what, known = ("key", ModelDeclaration) if path else ("setting", Settings)
        word = str(error["loc"][-1])
        hint = did_you_mean(word, known.model_fields) or "; see --help"
        return f"{origin}: unknown {what}{hint}"
    if kind.startswith("byte_size"):
        expected = "expected bytes such as 268435456 or 256MiB"
    else:
        expected = error["msg"].removeprefix("Value error, ").partition(", unable")[0]
        expected = re.sub("Input should be (a valid )?", "expected ", expected)
    if isinstance(found, Mapping):  # a whole [[models]] table; the message quotes it
        return f"{origin}: {expected}"
    return f"{origin}: {expected}, found {found!r}"
