"""One loaded model and its engine: runs checked calls and shapes their outputs."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from assay import scoring
from assay.chat import ChatOptions, conversations
from assay.engine import Engine, Job, Result
from assay.errors import NonFiniteError, ValidationError
from assay.inputs import cache_salts, plain_prompts
from assay.llm.adapters import adapter_key, lora_requests
from assay.llm.calls import check_task, params_per_prompt, progress
from assay.llm.pairs import compared, limited_texts, pair_prompts
from assay.outputs import (
    ClassificationRequestOutput,
    PoolingOutput,
    PoolingRequestOutput,
    RequestError,
    ScoringRequestOutput,
)
from assay.params import PoolingParams
from assay.steps import step_selection
from assay.tokenize_options import tokenize_options

if TYPE_CHECKING:
    from assay.config import PoolerConfig
    from assay.llm.adapters import Adapters
    from assay.llm.prompts import Prompts
    from assay.lora.request import LoRARequest
    from assay.models.pooling_model import PoolingModel
    from assay.rendering import Renderable, Renderer
    from assay.templated import ScoreTemplate
    from assay.tokenize_options import TokenizeOptions

UseTqdm: TypeAlias = "bool | Callable[..., Any]"
Params: TypeAlias = "PoolingParams | Sequence[PoolingParams | None] | None"
PoolingResults: TypeAlias = "list[PoolingRequestOutput[PoolingOutput]]"
NON_FINITE_CODE = 500


Output = TypeVar("Output")


@dataclass(frozen=True, slots=True)
class Prepared(Generic[Output]):
    """A checked call: the job for the engine, and what makes the call's outputs of the job's results, in order."""

    job: Job
    finish: Callable[[PoolingResults], list[Output]]


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """What a score call may say of the template: the text of one, variables for it, and the variable `instruction`."""

    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    instruction: str | None = None


_NO_CHAT, _NO_SCORING = ChatOptions(), ScoreOptions()


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What every call takes beside its prompts and parameters. chat: for conversations; scoring: for pairs."""

    use_tqdm: UseTqdm = False
    lora_request: Any = None
    tokenization_kwargs: Mapping[str, Any] | None = None
    truncate_prompt_tokens: int | None = None
    chat: ChatOptions = _NO_CHAT
    scoring: ScoreOptions = _NO_SCORING


class Session:
    """Shared by any number of caller threads. raises_non_finite: a NaN or Inf raises, or is an output's error.

    adapters: what a call's lora_request names; None where LoRA is not enabled.
    """

    def __init__(
        self,
        model: PoolingModel,
        renderer: Renderer,
        engine: Engine,
        pooler_config: PoolerConfig,
        max_model_len: int,
        prompts: Prompts,
        *,
        raises_non_finite: bool,
        adapters: Adapters | None = None,
    ) -> None:
        self.model = model
        self.adapters = adapters
        self.renderer = renderer
        self.engine = engine
        self.pooler_config = pooler_config
        self.max_model_len = max_model_len
        self.prompts = prompts
        self._raises_non_finite = raises_non_finite
        self._ids = itertools.count()
        self._is_adapted = False

    def adapted(self, model: PoolingModel) -> Session:
        """The same for an adapted model alone: every call runs it."""
        session = copy.copy(self)
        session.model, session.adapters, session._is_adapted = model, None, True
        return session

    def classify(self, prompts: Any, pooling_params: Params, call: CallOptions) -> list[ClassificationRequestOutput]:
        """The results of one call of classify, with the labels of the model that gave each."""
        prepared = self.prepare_encode("classify", prompts, pooling_params, call)
        results = self._run(prepared, call.use_tqdm)
        models = self._models_of(prepared.job)
        return [
            ClassificationRequestOutput.from_base(result, model.labels)
            for result, model in zip(results, models, strict=True)
        ]

    def encode(self, task: str | None, prompts: Any, pooling_params: Params, call: CallOptions) -> PoolingResults:
        """The results of one call of classify, embed, encode or reward, in the order of the prompts."""
        return self._run(self.prepare_encode(task, prompts, pooling_params, call), call.use_tqdm)

    def score(
        self, data_1: Any, data_2: Any, pooling_params: PoolingParams | None, call: CallOptions
    ) -> list[ScoringRequestOutput]:
        """One score per pair: 1:1, 1:N or N:N."""
        return self._run(self.prepare_score(data_1, data_2, pooling_params, call), call.use_tqdm)

    def prepare_encode(
        self, task: str | None, prompts: Any, pooling_params: Params, call: CallOptions
    ) -> Prepared[PoolingRequestOutput[PoolingOutput]]:
        """Check a call of classify, embed, encode or reward; raises what `encode` would before any work starts."""
        task = check_task(task, self.model.supported_tasks, self.model.task)
        chats = conversations(prompts)
        plain: list[Renderable]
        salts = None
        if chats is None:
            plain = [*plain_prompts(prompts, self.model.architecture, self.prompts.image_rules)]
            salts = cache_salts(prompts)
        else:
            plain = [self.prompts.chat_prompt(messages, call.chat) for messages in chats]
        requests = self._lora_requests(call.lora_request, len(plain))
        params = params_per_prompt(pooling_params, len(plain), task, self.pooler_config, self.model.hf_config)
        options = self._tokenize_options(call, has_special_tokens=chats is not None)
        job = self._job(plain, params, options, requests)
        if task == "token_classify" and self.pooler_config.tok_pooling_type == "STEP":
            prepared = self._stepped(job, params)
        else:
            prepared = Prepared(job, finish=list)
        prepared.job.cache_salt = salts
        return prepared

    def _stepped(self, job: Job, params: list[PoolingParams]) -> Prepared[PoolingRequestOutput[PoolingOutput]]:
        """Every token is computed, without activation where it is to be over some labels only; then steps are read."""
        select = functools.partial(step_selection, hf_config=self.model.hf_config, pooler_config=self.pooler_config)
        selections = [
            select(
                each.step_tag_id,
                each.returned_token_ids,
                each.use_activation is not False,
                num_labels=model.num_labels,
            )
            for each, model in zip(params, self._models_of(job), strict=True)
        ]
        job.use_activation = [
            flag and selection.label_ids is None for flag, selection in zip(job.use_activation, selections, strict=True)
        ]

        def finish(results: PoolingResults) -> PoolingResults:
            for result, selection in zip(results, selections, strict=True):
                if result.error is None:
                    result.outputs = PoolingOutput(selection(result.outputs.data, result.prompt_token_ids))
            return results

        return Prepared(job, finish)

    def prepare_score(
        self, data_1: Any, data_2: Any, pooling_params: PoolingParams | None, call: CallOptions
    ) -> Prepared[ScoringRequestOutput]:
        """Check a call of score; its job has one prompt per pair, or one per text where embeddings are compared."""
        is_adapted = self.adapters is not None and call.lora_request is not None
        kind = scoring.check_kind(self.model.task, 1 if is_adapted else self.model.num_labels)
        rules = self.prompts.image_rules
        queries = scoring.score_texts(data_1, self.model.architecture, rules)
        docs = scoring.score_texts(data_2, self.model.architecture, rules)
        scoring.check_pairing(len(queries), len(docs))
        requests = self._lora_requests(call.lora_request, len(docs))
        params = self._score_params(pooling_params)
        limits = scoring.score_limits(params.extra_kwargs, self.max_model_len)
        options = self._tokenize_options(call)
        tokenizer = self.renderer.tokenizer
        if kind == "cross-encoder":
            template = self._score_template(params, call.scoring)
            pairs = pair_prompts(
                queries, docs, limits, template, tokenizer, uses_separator=self._uses_separator, rules=rules
            )
            options = dataclasses.replace(options, only_second=limits.doc > 0)
            job = self._job(pairs, [params] * len(pairs), options, requests)
            if is_adapted:
                for model in set(self._models_of(job)):
                    scoring.check_kind(model.task, model.num_labels)
            return Prepared(job, lambda results: [ScoringRequestOutput.from_base(result) for result in results])
        texts: list[Renderable] = [
            *limited_texts(queries, limits.query, tokenizer),
            *limited_texts(docs, limits.doc, tokenizer),
        ]
        if len({request and adapter_key(request) for request in requests}) > 1:
            raise ValidationError("embeddings of different adapters cannot be compared: name one lora_request")
        job = self._job(texts, [params] * len(texts), options, requests[:1] * len(texts))
        pad = None if tokenizer is None else tokenizer.pad_token_id
        return Prepared(job, lambda results: compared(results[: len(queries)], results[len(queries) :], kind, pad))

    def _tokenize_options(self, call: CallOptions, *, has_special_tokens: bool = False) -> TokenizeOptions:
        """has_special_tokens: the prompts carry theirs already, so that none are added unless the call asks for it."""
        kwargs = call.tokenization_kwargs
        if has_special_tokens and (kwargs or {}).get("add_special_tokens") is None:
            kwargs = {**(kwargs or {}), "add_special_tokens": False}
        return tokenize_options(kwargs, self.max_model_len, call.truncate_prompt_tokens)

    def _score_template(self, params: PoolingParams, options: ScoreOptions) -> ScoreTemplate | None:
        kwargs = options.chat_template_kwargs
        if kwargs is None:
            kwargs = (params.extra_kwargs or {}).get("chat_template_kwargs")
        return self.prompts.score_template(options.chat_template, kwargs, options.instruction)

    def _score_params(self, pooling_params: Any) -> PoolingParams:
        if pooling_params is not None and not isinstance(pooling_params, PoolingParams):
            raise ValidationError(f"score takes one PoolingParams for all pairs, got {type(pooling_params).__name__}")
        task = self.model.task
        if pooling_params is not None and pooling_params.task not in (None, task):
            raise ValidationError(
                f"You cannot overwrite pooling_params.task={pooling_params.task!r} with pooling_task={task!r}!"
            )
        return params_per_prompt(pooling_params, 1, task, self.pooler_config, self.model.hf_config)[0]

    @functools.cached_property
    def _uses_separator(self) -> bool:
        return scoring.uses_separator(self.model.hf_config)

    def _lora_requests(self, lora_request: Any, count: int) -> list[LoRARequest | None]:
        return lora_requests(lora_request, count, is_enabled=self.adapters is not None)

    def _models_of(self, job: Job) -> list[PoolingModel]:
        """What runs each prompt of a job."""
        adapted: list[Any] = job.models or [None] * len(job)
        return [model or self.model for model in adapted]

    def _job(
        self,
        prompts: list[Renderable],
        params: list[PoolingParams],
        options: TokenizeOptions,
        requests: list[LoRARequest | None],
    ) -> Job:
        models: list[Any] | None = [self.model] * len(prompts) if self._is_adapted else None
        if self.adapters is not None:
            models = self.adapters.models(requests)
        first_ones = [(each.extra_kwargs or {}).get("compressed_token_type_ids") for each in params]
        return Job(
            prompts,
            options,
            use_activation=[each.use_activation is not False for each in params],
            dimensions=[each.dimensions for each in params],
            first_ones=first_ones if any(value is not None for value in first_ones) else None,
            models=models,
        )

    def _run(self, prepared: Prepared[Output], use_tqdm: UseTqdm) -> list[Output]:
        outputs: PoolingResults = []
        with progress(use_tqdm, len(prepared.job)) as advance, closing(self.engine.run(prepared.job)) as results:
            for result in results:
                outputs.append(self.output(result))
                if advance is not None:
                    advance()
        return prepared.finish(outputs)

    def output(self, result: Result) -> PoolingRequestOutput[PoolingOutput]:
        """What the caller gets for one result of the engine."""
        error, data = None, result.data
        if data is None:
            import torch

            message = f"the result for prompts[{result.index}] contains NaN or infinity"
            if self._raises_non_finite:
                raise NonFiniteError(message) from result.error
            error, data = RequestError(NON_FINITE_CODE, message), torch.empty(0)
        return PoolingRequestOutput(str(next(self._ids)), PoolingOutput(data), result.token_ids, 0, True, error=error)
