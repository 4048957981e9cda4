"""The server's command line: vLLM's names, dashes and underscores alike, several models, loud mistakes."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import llms
from assay.errors import ConfigError, MissingExtra
from assay.server import launch
from assay.server.command_line import parse
from assay.server.flags import ENGINE_OPTIONS, parser
from assay.server.settings import AdapterSpec, ModelSpec, ServerSettings
from assay.server.tracing import Tracing


def settings(*arguments: str) -> ServerSettings:
    return parse(arguments, "assay serve")


@pytest.mark.parametrize("arguments", [["m"], ["--model", "m"], ["--model=m"], ["m", "--port", "8000"]])
def test_model_is_positional_or_an_option(arguments: list[str]) -> None:
    assert settings(*arguments).models == (ModelSpec(names=("m",), source="m"),)


def test_dashes_and_underscores_are_alike_and_dots_make_objects() -> None:
    dashed = settings(
        *("m", "--hf-overrides", '{"num_labels": 1}', "--pooler-config.task", "classify", "--max-model-len", "64"),
        *("--served-model-name", "a", "b", "--no-enable-prefix-caching", "--scheduling-policy=priority"),
    )
    underscored = settings(
        *("m", "--hf_overrides", '{"num_labels": 1}', "--pooler_config.task", "classify", "--max_model_len=64"),
        *("--served_model_name", "a", "b", "--no_enable_prefix_caching", "--scheduling_policy", "priority"),
    )
    assert dashed == underscored
    (spec,) = dashed.models
    assert spec.names == ("a", "b")
    assert spec.keywords == {
        "hf_overrides": {"num_labels": 1},
        "pooler_config": {"task": "classify"},
        "max_model_len": 64,
        "enable_prefix_caching": False,
        "scheduling_policy": "priority",
    }


def test_json_options_are_merged() -> None:
    (spec,) = settings(
        "m",
        "--limit-mm-per-prompt.video",
        "1",
        "--limit-mm-per-prompt",
        '{"image": 2}',
        "--no-enable-flash-late-interaction",
        *("--allowed-media-domains", "a.example", "b.example"),
    ).models
    assert spec.keywords["allowed_media_domains"] == ["a.example", "b.example"]
    assert spec.keywords["limit_mm_per_prompt"] == {"video": 1, "image": 2}
    assert spec.keywords["pooler_config"] == {"enable_flash_late_interaction": False}


def test_several_models_with_names_and_keywords_of_their_own(tmp_path: Path) -> None:
    made = settings(
        *("--dtype", "float32", "--model", "a=folder/x"),
        *("--model", 'b={"model": "hub/y", "dtype": "bfloat16", "max_model_len": 32}'),
    )
    assert made.models == (
        ModelSpec(names=("a",), source="folder/x", keywords={"dtype": "float32"}),
        ModelSpec(names=("b",), source="hub/y", keywords={"dtype": "bfloat16", "max_model_len": 32}),
    )
    odd = tmp_path / "run=3"
    odd.mkdir()
    assert settings(str(odd)).models[0].source == str(odd)


def test_server_options_end_up_in_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "from-env")
    assert settings("m").access.api_keys == ("from-env",)
    made = settings(
        *("m", "--api-key", "k1", "k2", "--allowed-origins", '["https://a"]', "--host", "::1", "--port", "99"),
        *("--root-path", "/p", "--enable-request-id-headers", "--disable-uvicorn-access-log", "--auto-truncate"),
        *("--request-timeout-ms", "500", "--max-body-bytes", "1000", "--overload-status", "503"),
        *("--trust-request-chat-template", "--default-chat-template-kwargs", '{"a": 1}', "--drain-timeout-s", "2.5"),
        *("--compute-niceness", "7"),
        *("--open-paths", "/metrics", "/docs", "--log-format", "json", "--disable-fastapi-docs"),
    )
    assert made.access.api_keys == ("k1", "k2") and made.access.allowed_origins == ("https://a",)
    assert made.access.open_paths == ("/metrics", "/docs")
    assert (made.listen.host, made.listen.port, made.listen.root_path) == ("::1", 99, "/p")
    policy = made.requests
    assert (policy.auto_truncate, policy.default_timeout_ms, policy.max_body_bytes) == (True, 500, 1000)
    assert (policy.overload_status, policy.trust_chat_template) == (503, True)
    assert policy.chat_template_kwargs == {"a": 1}
    assert made.request_id_headers and not made.access_log and not made.show_docs
    assert (made.drain_timeout_s, made.log_format, made.compute_niceness) == (2.5, "json", 7)


def test_adapters() -> None:
    made = settings("m", "--lora-modules", "a=/x", '{"name": "b", "path": "/y=z", "base_model_name": "m"}')
    assert made.adapters == (
        AdapterSpec(name="a", path="/x"),
        AdapterSpec(name="b", path="/y=z", base_model_name="m"),
    )
    assert not made.changes_adapters


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "no model"),
        (["--model", "a=x", "--model", "a=y"], "two models are served under the name 'a'"),
        (["--model", "a=x", "--model", "b=y", "--served-model-name", "c"], "goes with one model"),
        (["--model", "a={broken"], "not a JSON object"),
        (["--model", "a={}"], "no model after the name"),
        (["m", "--port", "70000"], "port must be between"),
        (["m", "--overload-status", "500"], "overload_status must be one of"),
        (["m", "--request-timeout-ms", "0"], "default_timeout_ms must be a positive integer"),
        (["m", "--drain-timeout-s", "-1"], "drain_timeout_s must not be negative"),
        (["m", "--lora-modules", "a=/x", "b"], r"--lora-modules takes NAME=PATH or .*, got 'b'"),
        (["m", "--lora-modules", '{"name": "a", "path": "/x", "rank": 4}'], "--lora-modules .*: unknown keys rank"),
        (["m", "--lora-modules", "m=/x"], "two models are served under the name 'm'"),
        (["m", "--compute-niceness", "20"], "compute_niceness must be between 0 and 19"),
    ],
)
def test_wrong_settings_are_refused(arguments: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        settings(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [["m", "--no-such-flag"], ["m", "--por", "80"], ["m", "--hf-overrides", "[1]"], ["m", "--allowed-origins", "x"]],
)
def test_unknown_options_and_values_end_with_status_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        settings(*arguments)
    assert left.value.code == 2
    assert "usage: assay serve" in capsys.readouterr().err


def test_every_engine_option_is_a_keyword_of_llm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is accepted, or refused for its value; none is unknown to LLM."""
    # "auto" may stand where a repository's name does. The variable HF_HUB_OFFLINE is read once, at the hub's import.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    values: dict[type, Any] = {str: "auto", int: 1, bool: False, float: 0.5, dict: {}, list: ["a"]}
    for name, kind in ENGINE_OPTIONS.items():
        keyword = {name.replace("-", "_"): values[kind]}
        if name == "enable-flash-late-interaction":
            continue  # a field of PoolerConfig
        try:
            llms.load(**keyword).close()
        except TypeError as err:
            pytest.fail(f"--{name}: {err}")
        except (ValueError, OSError):
            pass


def test_main_reports_in_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.server.logs.set_up_logs", lambda *_: None)
    monkeypatch.setattr("sys.setswitchinterval", lambda _: None)
    assert launch.main([], "assay serve") == launch.WRONG_USE
    assert launch.main(["/nowhere/at/all"], "assay serve") == launch.FAILED
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("assay serve: no model")
    assert lines[-1].startswith("assay serve: ") and "there is no such folder" in lines[-1]


def test_a_missing_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "assay.server.loop", None)
    assert launch.main(["demo"], "assay serve") == launch.FAILED
    assert "pip install 'assay[server]'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(MissingExtra, match=r"assay\[otel\]"):
        Tracing.to_endpoint("http://localhost:4318")


def test_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        launch.main(["--help"], "assay serve")
    assert left.value.code == 0
    shown = capsys.readouterr().out
    for action in parser("assay serve")._actions:
        for option in action.option_strings:
            assert option in shown


@pytest.mark.parametrize(
    ("arguments", "limit"), [([], launch.DEFAULT_QUEUED_TOKENS), (["--max-queued-tokens", "7"], 7)]
)
def test_work_that_waits_is_bounded_unless_told_otherwise(arguments, limit):
    with ExitStack() as stack:
        (model,) = launch.load_models(parse([str(llms.folder()), *arguments], "assay serve"), stack)
        assert model.llm.llm_engine.vllm_config.scheduler_config.max_queued_tokens == limit
