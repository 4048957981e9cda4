"""Options that several commands share, each defined once as a field of a dataclass."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from assay.cli.guard import UsageError

if TYPE_CHECKING:
    from assay.config import PoolerConfig
    from assay.llm import LLM
    from assay.models import CheckReport
    from assay.params import PoolingParams

MODEL, INPUT, OUTPUT = "Model", "Input", "Output"
PROGRESS_FROM = 8
"""A progress bar is drawn for this many inputs or more."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and how it runs."""

    model: Annotated[
        str,
        typer.Option("--model", "-m", rich_help_panel=MODEL, help="A folder, a hub id, or 'demo'.", show_default=False),
    ]
    revision: Annotated[str | None, typer.Option(rich_help_panel=MODEL, help="Branch, tag or commit on the hub.")] = (
        None
    )
    device: Annotated[str, typer.Option(rich_help_panel=MODEL, help="cpu, cuda, cuda:N or auto.")] = "cpu"
    dtype: Annotated[str, typer.Option(rich_help_panel=MODEL, help="auto, float32, bfloat16, or on a GPU float16.")] = (
        "auto"
    )
    quantization: Annotated[
        str | None, typer.Option(rich_help_panel=MODEL, help="int8: faster, where answers stay those of bfloat16.")
    ] = None
    quantization_data: Annotated[
        str | None,
        typer.Option(rich_help_panel=MODEL, metavar="FILE", help="Texts that int8 is judged by, one a line."),
    ] = None
    runner: Annotated[str, typer.Option(rich_help_panel=MODEL, help="auto or pooling.")] = "auto"
    convert: Annotated[str, typer.Option(rich_help_panel=MODEL, help="auto, none, embed or classify.")] = "auto"
    model_impl: Annotated[
        str, typer.Option(rich_help_panel=MODEL, help="auto, vllm (own implementations) or transformers.")
    ] = "auto"
    chat_template: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MODEL, metavar="FILE", help="Jinja template of conversations and of pairs, or its name."
        ),
    ] = None
    threads: Annotated[int | None, typer.Option(min=1, rich_help_panel=MODEL, help="CPU threads of the kernels.")] = (
        None
    )
    max_length: Annotated[
        int | None,
        typer.Option("--max-length", "--max-model-len", min=1, rich_help_panel=MODEL, help="Most tokens of one input."),
    ] = None
    truncate: Annotated[
        bool, typer.Option("--truncate", rich_help_panel=MODEL, help="Cut inputs that are too long instead of failing.")
    ] = False
    raw: Annotated[
        bool, typer.Option("--raw", rich_help_panel=MODEL, help="Logits: leave the activation (softmax, sigmoid) out.")
    ] = False
    hf_overrides: Annotated[
        list[str] | None, typer.Option(rich_help_panel=MODEL, metavar="JSON", help="Keys to change in config.json.")
    ] = None
    pooler_config: Annotated[
        list[str] | None,
        typer.Option(
            "--pooler-config",
            "--override-pooler-config",
            rich_help_panel=MODEL,
            metavar="JSON",
            help="PoolerConfig fields.",
        ),
    ] = None
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", rich_help_panel=OUTPUT, help="No progress bar and no start-up notes.")
    ] = False

    def load(self, *, task: str | None = None) -> LLM:
        """Start the model; `task` is the pooling task where the options name none."""
        from assay.llm import LLM

        engine: dict[str, Any] = {"num_threads": self.threads, "max_model_len": self.max_length}
        llm = LLM(
            self.model,
            revision=self.revision,
            runner=self.runner,
            convert=self.convert,
            model_impl=self.model_impl,
            chat_template=self.chat_template,
            score_template=self.chat_template,
            device=self.device,
            dtype=self.dtype,
            quantization=self.quantization,
            quantization_data=self.quantization_data,
            hf_overrides=self._overrides(),
            pooler_config=self._pooler_config(task),
            non_finite="return",
            **{name: value for name, value in engine.items() if value is not None},
        )
        if not self.quiet:
            print(llm.summary, file=sys.stderr)
        return llm

    def check(self) -> CheckReport:
        """What the model's files say of it, without its weights."""
        from assay.files import resolve_model
        from assay.models import check_model

        files = resolve_model(self.model, revision=self.revision, weights=False)
        settings = {"runner": self.runner, "convert": self.convert, "model_impl": self.model_impl}
        return check_model(files, self._overrides(), self._pooler_config(), device=self.device, **settings)

    def _overrides(self) -> dict[str, Any] | None:
        return parse_objects("--hf-overrides", self.hf_overrides) or None

    def _pooler_config(self, task: str | None = None) -> PoolerConfig | None:
        from assay.config import PoolerConfig

        fields = parse_objects("--pooler-config", self.pooler_config)
        if task is not None and not fields.keys() & {"task", "pooling_task"}:
            fields["task"] = task
        try:
            return PoolerConfig(**fields) if fields else None
        except TypeError as err:
            raise UsageError(f"--pooler-config: {str(err).removeprefix('PoolerConfig.__init__() ')}") from err

    def pooling_params(self) -> PoolingParams | None:
        """What every request asks for; None is the model's default."""
        from assay.params import PoolingParams

        return PoolingParams(use_activation=False) if self.raw else None

    def tokenization(self) -> dict[str, Any] | None:
        """The tokenization_kwargs of every request."""
        return {"truncate_prompt_tokens": -1} if self.truncate else None

    def shows_progress(self, count: int) -> bool:
        """Whether `count` inputs are worth a progress bar, and someone is there to see it."""
        return count >= PROGRESS_FROM and not self.quiet and sys.stderr.isatty()


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """Where the texts come from."""

    file: Annotated[
        list[Path] | None,
        typer.Option(
            "--file", "-f", rich_help_panel=INPUT, help="A file of texts, '-' for standard input; repeatable."
        ),
    ] = None
    literal: Annotated[
        bool, typer.Option("--literal", rich_help_panel=INPUT, help="Take every argument as a text, never as a file.")
    ] = False
    jsonl: Annotated[
        bool, typer.Option("--jsonl", rich_help_panel=INPUT, help="Files hold JSON lines whatever they are called.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """What is said to the template of pairs."""

    instruction: Annotated[
        str | None, typer.Option(rich_help_panel=INPUT, help="What relevance means, for models that read it.")
    ] = None
    chat_template_kwargs: Annotated[
        list[str] | None, typer.Option(rich_help_panel=INPUT, metavar="JSON", help="Variables of the template.")
    ] = None

    def keywords(self) -> dict[str, Any]:
        """Keywords of `LLM.score`."""
        variables = parse_objects("--chat-template-kwargs", self.chat_template_kwargs)
        return {"instruction": self.instruction, "chat_template_kwargs": variables or None}


def parse_objects(option: str, texts: list[str] | None) -> dict[str, Any]:
    """The JSON objects given to a repeatable option, merged."""
    merged: dict[str, Any] = {}
    for text in texts or []:
        try:
            value = json.loads(text)
        except ValueError as err:
            raise UsageError(f"{option} must be a JSON object, got {text!r}: {err}") from err
        if not isinstance(value, dict):
            raise UsageError(f"{option} must be a JSON object, got {text!r}")
        merged.update(value)
    return merged


def takes(**groups: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace each named parameter, a dataclass of options, by the options themselves in what the parser sees."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        hints = {name: get_type_hints(group, include_extras=True) for name, group in groups.items()}
        parameters = [parameter for name, parameter in own.parameters.items() if name not in groups]
        for name, group in groups.items():
            for field in dataclasses.fields(group):
                default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
                kind = inspect.Parameter.KEYWORD_ONLY
                hint = hints[name][field.name]
                parameters.append(inspect.Parameter(field.name, kind, default=default, annotation=hint))

        @functools.wraps(command)
        def run(**values: Any) -> None:
            for name, group in groups.items():
                values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
            command(**values)

        keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        run.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword}
        return run

    return decorate
