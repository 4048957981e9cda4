"""A command line to settings: what was asked for, checked once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from assay.dotted_options import fold_dotted_options
from assay.errors import ConfigError
from assay.server.flags import ENGINE_OPTIONS, JSON_OPTIONS, json_object, parser
from assay.server.settings import Access, AdapterSpec, Listen, ModelSpec, RequestPolicy, ServerSettings

if TYPE_CHECKING:
    import argparse


def parse(arguments: Sequence[str], program: str) -> ServerSettings:
    """Settings from a command line; raises ConfigError, or leaves as argparse does."""
    folded = fold_dotted_options([_with_dashes(argument) for argument in arguments], JSON_OPTIONS)
    given = parser(program).parse_args(folded)
    keywords = {
        name: getattr(given, name) for name in (key.replace("-", "_") for key in ENGINE_OPTIONS) if hasattr(given, name)
    }
    if "enable_flash_late_interaction" in keywords:
        flag = keywords.pop("enable_flash_late_interaction")
        keywords["pooler_config"] = {**keywords.get("pooler_config", {}), "enable_flash_late_interaction": flag}
    environment = os.environ.get("VLLM_API_KEY")
    return ServerSettings(
        models=_specs(given, keywords),
        adapters=tuple(_adapter(text) for text in given.lora_modules),
        changes_adapters=os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "").strip().lower() in ("1", "true"),
        requests=RequestPolicy(
            max_body_bytes=given.max_body_bytes,
            default_timeout_ms=given.request_timeout_ms,
            auto_truncate=given.auto_truncate,
            overload_status=given.overload_status,
            trust_chat_template=given.trust_request_chat_template,
            trust_media_options=given.trust_request_mm_kwargs,
            chat_template=given.chat_template,
            chat_template_kwargs=given.default_chat_template_kwargs,
            content_format=given.chat_template_content_format,
        ),
        access=Access(
            api_keys=tuple(given.api_key or ([environment] if environment else [])),
            api_key_file=given.api_key_file,
            open_paths=tuple(given.open_paths),
            allowed_origins=tuple(given.allowed_origins),
            allowed_methods=tuple(given.allowed_methods),
            allowed_headers=tuple(given.allowed_headers),
            allow_credentials=given.allow_credentials,
        ),
        listen=Listen(
            host=given.host,
            port=given.port,
            uds=given.uds,
            root_path=given.root_path,
            ssl_keyfile=given.ssl_keyfile,
            ssl_certfile=given.ssl_certfile,
            ssl_ca_certs=given.ssl_ca_certs,
            ssl_cert_reqs=given.ssl_cert_reqs,
            keep_alive_s=given.keep_alive_s,
        ),
        drain_timeout_s=given.drain_timeout_s,
        compute_niceness=given.compute_niceness,
        request_id_headers=given.enable_request_id_headers,
        load_tracking=given.enable_server_load_tracking,
        show_docs=not given.disable_fastapi_docs,
        tokenizer_info=given.enable_tokenizer_info_endpoint,
        access_log=not given.disable_uvicorn_access_log,
        log_format=given.log_format,
        log_level=given.uvicorn_log_level,
        middleware=tuple(given.middleware),
        otlp_traces_endpoint=given.otlp_traces_endpoint,
    )


def _with_dashes(argument: str) -> str:
    """`--hf_overrides` as `--hf-overrides`; keys behind a dot and values keep their underscores."""
    if not argument.startswith("--"):
        return argument
    name = argument.split("=", 1)[0].split(".", 1)[0]
    return name.replace("_", "-") + argument[len(name) :]


def _specs(given: argparse.Namespace, keywords: dict[str, Any]) -> tuple[ModelSpec, ...]:
    sources = ([given.model_path] if given.model_path else []) + given.model
    if not sources:
        raise ConfigError("no model: give one as MODEL or --model")
    if given.served_model_name and len(sources) > 1:
        raise ConfigError("--served-model-name goes with one model; name several with --model NAME=MODEL")
    return tuple(_spec(source, tuple(given.served_model_name), keywords) for source in sources)


def _adapter(text: str) -> AdapterSpec:
    """NAME=PATH, or {"name": NAME, "path": PATH, "base_model_name": MODEL}."""
    if text.startswith("{"):
        own = json_object(text)
        name, path, base = (own.pop(key, None) for key in ("name", "path", "base_model_name"))
        if own:
            raise ConfigError(f"--lora-modules {text}: unknown keys {', '.join(own)}")
    else:
        (name, _, path), base = text.partition("="), None
    if not (isinstance(name, str) and name and isinstance(path, str) and path):
        raise ConfigError(f'--lora-modules takes NAME=PATH or {{"name": ..., "path": ...}}, got {text!r}')
    return AdapterSpec(name=name, path=path, base_model_name=base)


def _spec(text: str, names: tuple[str, ...], keywords: dict[str, Any]) -> ModelSpec:
    """MODEL, NAME=MODEL, or NAME={"model": MODEL, ...} with keywords of its own."""
    name, equals, source = text.partition("=")
    if not equals or not name or "/" in name or os.path.exists(text):
        return ModelSpec(names=names or (text,), source=text, keywords=keywords)
    if source.startswith("{"):
        own = json_object(source)
        source = own.pop("model", None)
        keywords = {**keywords, **own}
    if not isinstance(source, str) or not source:
        raise ConfigError(f"--model {text!r}: no model after the name")
    return ModelSpec(names=names or (name,), source=source, keywords=keywords)
