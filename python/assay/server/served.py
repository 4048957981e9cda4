"""The models a server answers for, and the facts about them that requests are checked against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from assay.server.errors import refuse

if TYPE_CHECKING:
    from assay.engine import Engine
    from assay.llm import LLM
    from assay.llm.session import Session
    from assay.tokenizer import Tokenizer

NO_PLUGIN = (
    "No IOProcessor plugin installed. Please refer to the documentation and to the "
    "'prithvi_geospatial_mae_io_processor' offline inference example for more details."
)
NO_NAME = ("", "default/not-specified")
"""What a body may have as `model` that means none; the second is what Infinity's clients send."""


def asked_name(name: str | None) -> str | None:
    """The name in a body, None where it means none."""
    return None if name in NO_NAME else name


class ServedModel:
    """One loaded model and the names it answers to.

    session, base: of an adapter, which runs in the engine of the model it adapts.
    """

    def __init__(
        self,
        llm: LLM,
        names: Sequence[str],
        *,
        source: str = "",
        session: Session | None = None,
        base: ServedModel | None = None,
    ) -> None:
        self.llm = llm
        self.names = tuple(names)
        self.source = source or self.names[0]
        self.session = session or llm.session
        """What checks and shapes calls."""
        self.parent = base

    @property
    def base(self) -> ServedModel:
        """The model an adapter is of; any other one itself."""
        return self.parent or self

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.names[0]

    @cached_property
    def engine(self) -> Engine:
        """What runs them."""
        return self.session.engine

    @cached_property
    def task(self) -> str:
        """The active pooling task."""
        return str(self.session.model.task)

    @cached_property
    def supported_tasks(self) -> tuple[str, ...]:
        """Every pooling task the model has a head for."""
        return tuple(self.session.model.supported_tasks)

    @cached_property
    def labels(self) -> list[str]:
        """Label names in the order of a result's entries."""
        return self.session.model.labels

    @cached_property
    def num_labels(self) -> int:
        """How many labels the classifier tells apart."""
        return int(self.session.model.num_labels)

    @cached_property
    def id2label(self) -> dict[int, str]:
        """Label names by index."""
        return self.session.model.id2label

    @cached_property
    def max_model_len(self) -> int:
        """The most tokens of one input."""
        return self.session.max_model_len

    @cached_property
    def activation(self) -> str:
        """What turns logits into scores, in one word."""
        return self.session.model.activation_name

    @cached_property
    def probability(self) -> str:
        """What makes probabilities of the logits whatever the model declares: sigmoid or softmax."""
        is_multi = self.session.model.hf_config.problem_type == "multi_label_classification"
        return "sigmoid" if self.num_labels < 2 or is_multi else "softmax"

    @cached_property
    def is_regression(self) -> bool:
        """Whether its logits are the values themselves."""
        return self.session.model.hf_config.problem_type == "regression"

    @cached_property
    def can_score(self) -> bool:
        """Whether pairs can be scored under the active task."""
        return self.task in ("embed", "token_embed") or (self.task == "classify" and self.num_labels == 1)

    @cached_property
    def has_priorities(self) -> bool:
        """Whether the scheduler looks at a request's priority."""
        return self.llm.llm_engine.vllm_config.scheduler_config.scheduling_policy == "priority"

    def require_tokenizer(self) -> Tokenizer:
        """The tokenizer; Refused where the model was loaded without one."""
        tokenizer = self.session.renderer.tokenizer
        if tokenizer is None:
            raise refuse("The server was started with --skip-tokenizer-init: pass token ids.")
        return tokenizer

    def check_task(self, task: str | None) -> str:
        """The task to run, the active one for None; Refused where it is not the active one."""
        if task is None or task == self.task:
            return self.task
        if task == "plugin":
            raise refuse(NO_PLUGIN, param="task")
        if task in self.supported_tasks:
            raise refuse(f"Try switching the model's pooling_task via --pooler-config.task {task}.", param="task")
        raise refuse(f"Unsupported task: {task!r} Supported tasks: {self.supported_tasks}", param="task")


class ModelTable:
    """Every served model, the first of which answers requests that name none, and the adapters of each.

    Adapters come and go on one thread, and are read on any.
    """

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self.models = tuple(models)
        self._base_by_name = {name: model for model in self.models for name in model.names}
        self._by_name = self._base_by_name

    @property
    def default(self) -> ServedModel:
        """The model of a request that names none."""
        return self.models[0]

    @property
    def adapters(self) -> list[ServedModel]:
        """The adapters, in the order in which they came."""
        return [model for model in self._by_name.values() if model.parent is not None]

    def __iter__(self) -> Iterator[ServedModel]:
        """The models without their adapters."""
        return iter(self.models)

    def is_base(self, name: str) -> bool:
        """Whether a model, no adapter, has this name."""
        return name in self._base_by_name

    def adapter(self, name: str) -> ServedModel | None:
        """The adapter of that name."""
        return None if self.is_base(name) else self._by_name.get(name)

    def add(self, adapter: ServedModel) -> None:
        """Serve an adapter, in the place of one of the same name."""
        self._by_name = {**self._by_name, adapter.name: adapter}

    def remove(self, name: str) -> None:
        """Serve an adapter no longer."""
        self._by_name = {other: model for other, model in self._by_name.items() if other != name}

    def find(self, name: str | None) -> ServedModel:
        """The model of that name (the default one where it means none); Refused with a 404 that lists the names."""
        name = asked_name(name)
        if name is None:
            return self.default
        model = self._by_name.get(name)
        if model is None:
            names = ", ".join(self._by_name)
            message = f"The model `{name[:200]}` does not exist. Valid aliases: {names}."
            raise refuse(message, status=404, kind="NotFoundError", param="model")
        return model
