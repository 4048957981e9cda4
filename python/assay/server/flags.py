"""The server's command line, under vLLM's names: `-` and `_` are alike in every long option."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

from assay.errors import ConfigError
from assay.server.settings import Listen, RequestPolicy, ServerSettings

SWITCH: Final = argparse.BooleanOptionalAction


def parser(program: str) -> argparse.ArgumentParser:
    """The whole command line. Options of `LLM` are there only where they are given."""
    made = argparse.ArgumentParser(
        prog=program, description="Serve classifiers, rerankers and embedding models over HTTP.", allow_abbrev=False
    )
    made.add_argument("model_path", nargs="?", metavar="MODEL", help="a folder, a hub id, or 'demo'")
    made.add_argument("--model", action="append", default=[], metavar="[NAME=]MODEL", help="repeatable; see the docs")
    made.add_argument("--served-model-name", nargs="+", default=[], metavar="NAME", help="names of the only model")
    made.add_argument(
        "--lora-modules", nargs="+", default=[], metavar="NAME=PATH", help="adapters to serve under names of their own"
    )
    _add_engine(made.add_argument_group("model and engine", argument_default=argparse.SUPPRESS))
    _add_requests(made.add_argument_group("requests"))
    _add_access(made.add_argument_group("access"))
    _add_listen(made.add_argument_group("listening and life"))
    _add_logs(made.add_argument_group("logs and traces"))
    return made


def _add_engine(group: argparse._ArgumentGroup) -> None:
    for name, kind in ENGINE_OPTIONS.items():
        if kind is bool:
            group.add_argument(f"--{name}", action=SWITCH)
        elif kind is dict:
            group.add_argument(f"--{name}", action=_MergeJson, metavar="JSON")
        elif kind is list:
            group.add_argument(f"--{name}", nargs="+")
        else:
            group.add_argument(f"--{name}", type=kind)


ENGINE_OPTIONS: Final[dict[str, type]] = {
    "runner": str,
    "convert": str,
    "model-impl": str,
    "tokenizer": str,
    "tokenizer-mode": str,
    "skip-tokenizer-init": bool,
    "revision": str,
    "tokenizer-revision": str,
    "hf-token": str,
    "device": str,
    "dtype": str,
    "quantization": str,
    "quantization-data": str,
    "load-format": str,
    "max-model-len": int,
    "max-num-seqs": int,
    "max-batch-size": int,
    "max-num-batched-tokens": int,
    "max-batch-tokens": int,
    "max-queued-tokens": int,
    "result-cache-bytes": int,
    "scheduling-policy": str,
    "num-threads": int,
    "pooler-config": dict,
    "override-pooler-config": dict,
    "hf-overrides": dict,
    "enforce-eager": bool,
    "trust-remote-code": bool,
    "enable-prefix-caching": bool,
    "enable-chunked-prefill": bool,
    "enable-flash-late-interaction": bool,
    "enable-lora": bool,
    "max-lora-rank": int,
    "max-loras": int,
    "max-cpu-loras": int,
    "max-lora-cls-labels": int,
    "limit-mm-per-prompt": dict,
    "mm-processor-kwargs": dict,
    "media-io-kwargs": dict,
    "allowed-local-media-path": str,
    "allowed-media-domains": list,
    "tensor-parallel-size": int,
    "pipeline-parallel-size": int,
    "data-parallel-size": int,
    "gpu-memory-utilization": float,
    "seed": int,
}
"""Keywords of `LLM`, which accepts or refuses their values."""

JSON_OPTIONS: Final = tuple(name for name, kind in ENGINE_OPTIONS.items() if kind is dict)


def _add_requests(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--chat-template", help="a file, or the template itself; also the template of score and rerank")
    group.add_argument("--chat-template-content-format", choices=("auto", "string", "openai"), default="auto")
    group.add_argument("--default-chat-template-kwargs", action=_MergeJson, default={}, metavar="JSON")
    group.add_argument("--trust-request-chat-template", action=SWITCH, default=False)
    group.add_argument("--trust-request-mm-kwargs", action=SWITCH, default=False)
    group.add_argument("--auto-truncate", action=SWITCH, default=False, help="cut inputs that are too long")
    group.add_argument("--request-timeout-ms", type=int, help="deadline of requests without timeout_ms")
    group.add_argument("--max-body-bytes", "--payload-limit", type=int, default=RequestPolicy().max_body_bytes)
    group.add_argument("--overload-status", type=int, default=429, help="429, or 503 for clients that retry on it only")
    group.add_argument("--enable-request-id-headers", action=SWITCH, default=False)
    group.add_argument("--enable-server-load-tracking", action=SWITCH, default=False)
    group.add_argument("--disable-fastapi-docs", action="store_true")
    group.add_argument("--enable-tokenizer-info-endpoint", action=SWITCH, default=False)


def _add_access(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--api-key", nargs="+", default=[], metavar="KEY", help="instead of VLLM_API_KEY")
    group.add_argument("--api-key-file", type=Path, help="a key per line; read again on SIGHUP")
    group.add_argument("--open-paths", nargs="+", default=[], metavar="PATH", help="paths that need no key: /metrics")
    group.add_argument("--allowed-origins", type=_json_list, default=[], metavar="JSON")
    group.add_argument("--allowed-methods", type=_json_list, default=["*"], metavar="JSON")
    group.add_argument("--allowed-headers", type=_json_list, default=["*"], metavar="JSON")
    group.add_argument("--allow-credentials", action=SWITCH, default=False)
    group.add_argument("--middleware", action="append", default=[], metavar="MODULE.NAME")


def _add_listen(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--host", help="default: all interfaces")
    group.add_argument("--port", type=int, default=8000)
    group.add_argument("--uds", metavar="PATH", help="a unix socket instead of host and port")
    group.add_argument("--root-path", default="", help="the prefix a proxy strips")
    group.add_argument("--ssl-keyfile")
    group.add_argument("--ssl-certfile")
    group.add_argument("--ssl-ca-certs")
    group.add_argument("--ssl-cert-reqs", type=int, default=0)
    group.add_argument("--keep-alive-s", type=int, default=Listen().keep_alive_s)
    group.add_argument("--drain-timeout-s", type=float, default=30.0, help="after SIGTERM; a second one ends it")
    niceness = ServerSettings().compute_niceness
    group.add_argument("--compute-niceness", type=int, default=niceness, help="0: compute as eagerly as answer")


def _add_logs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--log-format", choices=("text", "json"), default="text")
    group.add_argument("--uvicorn-log-level", choices=("critical", "error", "warning", "info", "debug"), default="info")
    group.add_argument("--disable-uvicorn-access-log", action="store_true", help="no line per request")
    group.add_argument("--otlp-traces-endpoint", metavar="URL", help="OpenTelemetry spans over HTTP (extra 'otel')")
    group.add_argument("--enable-log-requests", action=SWITCH, help="accepted: texts are never logged")
    group.add_argument("--max-log-len", type=int, help="accepted: texts are never logged")


def json_object(text: str) -> dict[str, Any]:
    """A JSON object; raises ConfigError for anything else."""
    try:
        value = json.loads(text)
    except ValueError as err:
        raise ConfigError(f"not a JSON object: {text!r}: {err}") from err
    if not isinstance(value, dict):
        raise ConfigError(f"not a JSON object: {text!r}")
    return value


def _json_list(text: str) -> list[str]:
    """A JSON list of strings."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise argparse.ArgumentTypeError(f"must be a JSON list of strings, got {text!r}")
    return value


class _MergeJson(argparse.Action):
    """A repeatable option of JSON objects, merged."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            value = json_object(values)
        except ConfigError as err:
            parser.error(f"argument {option_string}: {err}")
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest, None) or {}), **value})
