"""What a server is started with: frozen, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from assay.errors import ConfigError
from assay.niceness import LOWEST_PRIORITY

DEFAULT_MAX_BODY_BYTES: Final = 64 * 1024 * 1024
OVERLOAD_STATUSES: Final = (429, 503)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model to serve: the names it answers to (the first is its own), where it is, and keywords of `LLM`."""

    names: tuple[str, ...]
    source: str
    keywords: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """A LoRA adapter to serve: its name, its folder or Hub id, and which model it is of (None: the first that can)."""

    name: str
    path: str
    base_model_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPolicy:
    """What requests may ask for, and what they get where they ask for nothing.

    max_body_bytes: a larger body is a 413. default_timeout_ms: the deadline of a request that states none.
    auto_truncate: cut inputs that are too long in every dialect, unless the request says otherwise.
    overload_status: 429, or 503 for clients that retry on nothing else.
    trust_chat_template: whether a request may bring its own chat template.
    chat_template: the server's own, for conversations and for pairs; chat_template_kwargs: default variables for it.
    content_format: "string", "openai" or "auto", see `ChatOptions`.
    """

    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    default_timeout_ms: int | None = None
    auto_truncate: bool = False
    overload_status: int = 429
    trust_chat_template: bool = False
    trust_media_options: bool = False
    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    content_format: str = "auto"

    def __post_init__(self) -> None:
        _positive("max_body_bytes", self.max_body_bytes)
        if self.default_timeout_ms is not None:
            _positive("default_timeout_ms", self.default_timeout_ms)
        if self.overload_status not in OVERLOAD_STATUSES:
            raise ConfigError(f"overload_status must be one of {OVERLOAD_STATUSES}, got {self.overload_status!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may call what. open_paths: guarded paths that need no key after all, for instance /metrics."""

    api_keys: tuple[str, ...] = ()
    api_key_file: Path | None = None
    open_paths: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    allowed_methods: tuple[str, ...] = ("*",)
    allowed_headers: tuple[str, ...] = ("*",)
    allow_credentials: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where and how the server listens."""

    host: str | None = None
    port: int = 8000
    uds: str | None = None
    root_path: str = ""
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_ca_certs: str | None = None
    ssl_cert_reqs: int = 0
    keep_alive_s: int = 75

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be between 0 and 65535, got {self.port}")
        if (self.ssl_keyfile is None) != (self.ssl_certfile is None) and self.ssl_certfile is None:
            raise ConfigError("ssl_keyfile needs ssl_certfile")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Everything but the models themselves.

    drain_timeout_s: how long a stopping server works on what it has accepted.
    compute_niceness: how much threads that tokenise and compute give way to the one that answers, 0 (not at all) to 19.
    changes_adapters: whether clients may load and unload adapters.
    """

    models: tuple[ModelSpec, ...] = ()
    adapters: tuple[AdapterSpec, ...] = ()
    changes_adapters: bool = False
    requests: RequestPolicy = field(default_factory=RequestPolicy)
    access: Access = field(default_factory=Access)
    listen: Listen = field(default_factory=Listen)
    drain_timeout_s: float = 30.0
    compute_niceness: int = 5
    request_id_headers: bool = False
    load_tracking: bool = False
    show_docs: bool = True
    tokenizer_info: bool = False
    access_log: bool = True
    log_format: str = "text"
    log_level: str = "info"
    middleware: tuple[str, ...] = ()
    otlp_traces_endpoint: str | None = None

    def __post_init__(self) -> None:
        if self.drain_timeout_s < 0:
            raise ConfigError(f"drain_timeout_s must not be negative, got {self.drain_timeout_s!r}")
        if not 0 <= self.compute_niceness <= LOWEST_PRIORITY:
            wanted = f"between 0 and {LOWEST_PRIORITY}"
            raise ConfigError(f"compute_niceness must be {wanted}, got {self.compute_niceness!r}")
        names = [name for spec in self.models for name in spec.names] + [spec.name for spec in self.adapters]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"two models are served under the name {name!r}")


def _positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a positive integer, got {value!r}")
