"""`LLM`: load a model once, then classify, score, embed or encode any number of prompts."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assay import ops
from assay.chat import ChatOptions
from assay.device_choice import choose_device
from assay.engine import Engine
from assay.errors import ConfigError, ValidationError
from assay.llm import startup
from assay.llm.adapters import DEFAULT_MAX_RANK, AdapterLimits, Adapters
from assay.llm.arguments import (
    check_keywords,
    dtype_name,
    engine_config_from,
    placement_from,
    pooler_config_from,
)
from assay.llm.media_options import MediaOptions
from assay.llm.prompts import Prompts
from assay.llm.quantized import guard
from assay.llm.session import CallOptions, Params, PoolingResults, ScoreOptions, Session, UseTqdm
from assay.outputs import EmbeddingRequestOutput
from assay.tokenize_options import with_special_tokens

if TYPE_CHECKING:
    import os

    from assay.config import PoolerConfig
    from assay.lora.request import LoRARequest
    from assay.models.pooling_model import PoolingModel
    from assay.outputs import ClassificationRequestOutput, ScoringRequestOutput
    from assay.params import PoolingParams
    from assay.rendering import Renderer

logger = logging.getLogger(__name__)


def _no_threads() -> None:
    """What there is to wake for a model on a GPU."""


class LLM:
    """A classifier, cross-encoder, reward or embedding model on this machine.

    model is a folder, a Hub id or "demo". The keywords of `vllm.LLM` are accepted: those that only tune another
    engine's memory or compilation have no effect, those that would change results and cannot be honoured are refused.

    runner "auto" | "pooling"; convert "auto" | "none" | "embed" | "classify" (the head must exist: none is invented).
    tokenizer, tokenizer_revision: a tokenizer from elsewhere. skip_tokenizer_init: token ids only.
    dtype "auto" keeps what the checkpoint promises, "float32" is exact, "bfloat16" is fast.
    quantization "int8": faster still; layers whose products it would harm stay in bfloat16, and where answers would
    change too much it is refused (docs/quantization.md).
    hf_overrides: keys of config.json to change (a dict), or a callable that gets the config and returns one.
    pooler_config: a PoolerConfig or its fields as a dict (override_pooler_config is its older name).
    max_model_len: refuse longer prompts; never above what the model can do.
    model_impl: "auto" takes this package's own implementation of a model and, where there is none, transformers' code
    on our kernels; "vllm" only the former, "transformers" only the latter.
    revision, hf_token, offline: for a Hub id. offline None follows HF_HUB_OFFLINE.
    chat_template: for conversations, instead of the tokenizer's: a file, or the template itself. `score` does not use
    it: it has an argument of that name.

    device "cpu", "cuda", "cuda:N" or "auto", the first GPU that can be used, else the CPU (docs/gpu.md). On a GPU
    gpu_memory_utilization is the share of its memory the model may take at most, and enforce_eager=True does without
    CUDA graphs; dtype may also be "float16" there.

    enable_lora: calls may name a PEFT adapter as lora_request, which runs merged into the model's weights
    (docs/lora.md). max_lora_rank: of its matrices; max_loras and max_cpu_loras: how many stay loaded, the larger of the
    two; max_lora_cls_labels: rows an adapter's own classifier may have, None for as many as the model's.

    Of images (docs/images.md): allowed_local_media_path, a folder whose files prompts may name by file:// URLs;
    allowed_media_domains, hosts that images may be fetched from, None for all; limit_mm_per_prompt, how many images a
    prompt may have, {"image": count}; mm_processor_kwargs, settings of the model's image processor.

    Ours: score_template (what `score` renders pairs with where the call names none; without it the template of the
    recipe that fits the model, if one does), num_threads (kernel threads of the process), max_batch_tokens and
    max_batch_size (also under their other names max_num_batched_tokens and max_num_seqs), scheduling_policy,
    max_queued_tokens and result_cache_bytes (fields of EngineConfig), quantization_data (what int8 is judged by: a file
    of texts, or a list of prompts), self_check=False skips the two built-in inputs at start-up, non_finite="return"
    gives a NaN or Inf result back as `.error` of its output where "raise" raises NonFiniteError.

    Any number of threads may call one LLM. `close()`, a `with` block or garbage collection stops its threads.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        runner: str = "auto",
        convert: str = "auto",
        tokenizer: str | None = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        dtype: Any = "auto",
        quantization: str | None = None,
        quantization_data: str | os.PathLike[str] | Sequence[Any] | None = None,
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        chat_template: str | os.PathLike[str] | None = None,
        score_template: str | os.PathLike[str] | None = None,
        hf_token: str | bool | None = None,
        hf_overrides: Any = None,
        pooler_config: PoolerConfig | Mapping[str, Any] | None = None,
        override_pooler_config: PoolerConfig | Mapping[str, Any] | None = None,
        max_model_len: int | None = None,
        model_impl: str = "auto",
        max_batch_tokens: int | None = None,
        max_num_batched_tokens: int | None = None,
        max_batch_size: int | None = None,
        max_num_seqs: int | None = None,
        num_threads: int | None = None,
        scheduling_policy: str = "fcfs",
        max_queued_tokens: int | None = None,
        result_cache_bytes: int = 0,
        offline: bool | None = None,
        device: Any = "cpu",
        enforce_eager: bool | None = False,
        gpu_memory_utilization: float | None = None,
        self_check: bool = True,
        non_finite: str = "raise",
        enable_lora: bool = False,
        max_lora_rank: int = DEFAULT_MAX_RANK,
        max_loras: int = 1,
        max_cpu_loras: int | None = None,
        max_lora_cls_labels: int | None = None,
        allowed_local_media_path: str | os.PathLike[str] = "",
        allowed_media_domains: Sequence[str] | None = None,
        limit_mm_per_prompt: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        named = {"runner": runner, "convert": convert, "tokenizer_mode": tokenizer_mode, "quantization": quantization}
        named["model_impl"] = model_impl
        check_keywords({**named, "trust_remote_code": trust_remote_code, **kwargs})
        if pooler_config is not None and override_pooler_config is not None:
            raise ConfigError("Cannot set both `override_pooler_config` and `pooler_config`")
        if non_finite not in ("raise", "return"):
            raise ConfigError(f"non_finite must be 'raise' or 'return', got {non_finite!r}")
        pooler = pooler_config_from(pooler_config if pooler_config is not None else override_pooler_config)
        if quantization_data is not None and quantization is None:
            raise ConfigError("quantization_data is read for quantization='int8' only")
        if enable_lora and quantization is not None:
            raise ConfigError(f"enable_lora=True and quantization={quantization!r} do not go together: leave one out")
        media = MediaOptions.read(
            allowed_local_media_path, allowed_media_domains, limit_mm_per_prompt, mm_processor_kwargs
        )
        limits = AdapterLimits(max_lora_rank, max_loras, max_cpu_loras, max_lora_cls_labels)
        chosen = choose_device("cpu" if quantization is not None and device in (None, "auto") else device)
        placement = placement_from(chosen, enforce_eager, gpu_memory_utilization, quantization)
        config = engine_config_from(
            max_batch_tokens,
            max_num_batched_tokens,
            max_batch_size,
            max_num_seqs,
            num_threads,
            is_cuda=chosen.is_cuda,
            scheduling_policy=scheduling_policy,
            max_queued_tokens=max_queued_tokens,
            result_cache_bytes=result_cache_bytes,
        )
        load = functools.partial(
            startup.load,
            model,
            revision=revision,
            token=hf_token,
            offline=offline,
            hf_overrides=hf_overrides,
            dtype=dtype_name(dtype, chosen.kind),
            pooler_config=pooler,
            runner=runner,
            convert=convert,
            config=config,
            tokenizer=tokenizer,
            tokenizer_revision=tokenizer_revision,
            skip_tokenizer_init=skip_tokenizer_init,
            max_model_len=max_model_len,
            model_impl=model_impl,
            placement=placement,
            enable_lora=bool(enable_lora),
            media=media,
        )
        loaded = load(quantization=quantization)
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        prompts = Prompts(
            loaded.tokenizer,
            loaded.model.architecture,
            None if loaded.match is None else loaded.match.recipe,
            chat_template,
            score_template,
            is_converted=loaded.is_converted,
            image_rules=None if loaded.images is None else loaded.images.rules,
        )
        renderer = loaded.renderer()
        wake = _no_threads if chosen.is_cuda else ops.wake_threads
        self._engine = Engine(loaded.model, renderer, config, wake=wake)
        adapters, check = None, self._check_of(renderer, loaded) if self_check else None
        if loaded.parts is not None:
            make = functools.partial(
                startup.load_adapter, loaded=loaded, limits=limits, token=hf_token, offline=offline, check=check
            )
            adapters = Adapters(make, limits.max_loaded)
        self._session = Session(
            loaded.model,
            renderer,
            self._engine,
            loaded.model.pooler_config,
            loaded.max_model_len,
            prompts,
            raises_non_finite=non_finite == "raise",
            adapters=adapters,
        )
        self.quantization = None
        try:
            if quantization is not None:
                load_exact = functools.partial(load, dtype="bfloat16", skip_tokenizer_init=True)
                self.quantization = guard(loaded, self._session, quantization_data, load_exact)
            if check is not None:
                check(None)
        except BaseException:
            self._engine.close()
            raise
        self.llm_engine = loaded.view(config)
        self.summary = loaded.describe() + ("" if self.quantization is None else f"; {self.quantization}")
        logger.info("%s", self.summary)

    def _check_of(self, renderer: Renderer, loaded: startup.Loaded) -> Callable[[PoolingModel | None], None]:
        """The self-check, of an adapted model or of the model itself."""
        # The engine's alone: the LLM must be freed, and its threads stop, when the last caller lets it go.
        submit, length, vocab_size = self._engine.submit, loaded.max_model_len, loaded.model.vocab_size
        return lambda model: startup.self_check(renderer, functools.partial(submit, model=model), length, vocab_size)

    @classmethod
    def from_engine_args(cls, engine_args: Any) -> LLM:
        """From an object (or mapping) whose attributes are keywords of LLM."""
        fields = engine_args if isinstance(engine_args, Mapping) else vars(engine_args)
        return cls(**fields)

    # ---- what the model is -----------------------------------------------------------------------------------------

    def load_adapter(self, request: LoRARequest) -> Session:
        """What `session` is for the model with an adapter (ours); it stays loaded as long as the session is kept.

        Raises ConfigError or WeightsError, and ValidationError where LoRA is not enabled.
        """
        if self._session.adapters is None:
            raise ValidationError(f"Got lora_request {request} but LoRA is not enabled!")
        return self._session.adapted(self._session.adapters.load(request))

    @property
    def session(self) -> Session:
        """What checks calls and shapes their outputs: for a server, which queues the work in between (ours)."""
        return self._session

    @property
    def supported_tasks(self) -> tuple[str, ...]:
        """The pooling tasks the model offers."""
        return tuple(self._model.supported_tasks)

    @property
    def pooling_task(self) -> str:
        """The one active task."""
        return str(self._model.task)

    @property
    def labels(self) -> list[str]:
        """Label names in the order of a result's entries (ours)."""
        return self._model.labels

    def get_tokenizer(self) -> Any:
        """The transformers tokenizer: a copy, whose settings the caller may change without effect on this LLM."""
        return self._tokenizer_copy

    @functools.cached_property
    def _tokenizer_copy(self) -> Any:
        if self._tokenizer is None:
            raise ValidationError("there is no tokenizer: the LLM was made with skip_tokenizer_init=True")
        return copy.deepcopy(self._tokenizer.hf)

    # ---- calls -----------------------------------------------------------------------------------------------------

    def classify(
        self,
        prompts: Any,
        *,
        pooling_params: Params = None,
        use_tqdm: UseTqdm = True,
        lora_request: Any = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        truncate_prompt_tokens: int | None = None,
        chat_template: str | os.PathLike[str] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        add_special_tokens: bool | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[ClassificationRequestOutput]:
        """Probabilities of every label for each prompt (logits with PoolingParams(use_activation=False)).

        prompts: a str, token ids, {"prompt": str}, {"prompt_token_ids": [int]} or a sequence of those; or a
        conversation (a list of {"role": str, "content": str or text parts}) or a list of conversations.
        pooling_params: one for all prompts, or a list of the same length. truncate_prompt_tokens (also a key of
        tokenization_kwargs): keep that many tokens, -1 the model's maximum; without it a longer prompt is an error.
        use_tqdm: a bar for calls that take a while, or a factory that is called like tqdm.

        add_special_tokens: by default the tokenizer adds its own to texts, and none to conversations, whose template
        writes them. For conversations: chat_template (instead of the model's), add_generation_prompt (end with the
        header of an answer), continue_final_message (leave the last message open), chat_template_kwargs (variables of
        the template).
        """
        template = self._session.prompts.source(chat_template)
        chat = ChatOptions(template, add_generation_prompt, continue_final_message, chat_template_kwargs)
        kwargs = with_special_tokens(tokenization_kwargs, add_special_tokens)
        call = CallOptions(use_tqdm, lora_request, kwargs, truncate_prompt_tokens, chat)
        return self._session.classify(prompts, pooling_params, call)

    def encode(
        self,
        prompts: Any,
        pooling_params: Params = None,
        *,
        use_tqdm: UseTqdm = True,
        lora_request: Any = None,
        pooling_task: str | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        truncate_prompt_tokens: int | None = None,
        chat_template: str | os.PathLike[str] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        add_special_tokens: bool | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> PoolingResults:
        """The untyped results of any task; pooling_task is required and must be the active one.

        Prompts and the keywords for conversations are those of `classify`.
        """
        template = self._session.prompts.source(chat_template)
        chat = ChatOptions(template, add_generation_prompt, continue_final_message, chat_template_kwargs)
        kwargs = with_special_tokens(tokenization_kwargs, add_special_tokens)
        call = CallOptions(use_tqdm, lora_request, kwargs, truncate_prompt_tokens, chat)
        return self._session.encode(pooling_task, prompts, pooling_params, call)

    def embed(
        self,
        prompts: Any,
        *,
        use_tqdm: UseTqdm = True,
        pooling_params: Params = None,
        lora_request: Any = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        truncate_prompt_tokens: int | None = None,
    ) -> list[EmbeddingRequestOutput]:
        """One embedding per prompt (not normalised with PoolingParams(use_activation=False))."""
        call = CallOptions(use_tqdm, lora_request, tokenization_kwargs, truncate_prompt_tokens)
        results = self._session.encode("embed", prompts, pooling_params, call)
        return [EmbeddingRequestOutput.from_base(result) for result in results]

    def reward(
        self,
        prompts: Any,
        /,
        *,
        pooling_params: Params = None,
        use_tqdm: UseTqdm = True,
        lora_request: Any = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        truncate_prompt_tokens: int | None = None,
        chat_template: str | os.PathLike[str] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        add_special_tokens: bool | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> PoolingResults:
        """Older name of encode(..., pooling_task="token_classify")."""
        template = self._session.prompts.source(chat_template)
        chat = ChatOptions(template, add_generation_prompt, continue_final_message, chat_template_kwargs)
        kwargs = with_special_tokens(tokenization_kwargs, add_special_tokens)
        call = CallOptions(use_tqdm, lora_request, kwargs, truncate_prompt_tokens, chat)
        return self._session.encode("token_classify", prompts, pooling_params, call)

    def score(
        self,
        data_1: Any,
        data_2: Any,
        /,
        *,
        use_tqdm: UseTqdm = True,
        pooling_params: PoolingParams | None = None,
        lora_request: Any = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        chat_template: str | os.PathLike[str] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        instruction: str | None = None,
        truncate_prompt_tokens: int | None = None,
    ) -> list[ScoringRequestOutput]:
        """How relevant data_2 is to data_1: one score per pair, 1:1, 1:N (the query repeated) or N:N.

        Each side is a str, {"content": [{"type": "text", "text": ...}]} or a list of those. A cross-encoder reads the
        pair as a template renders it, or as the tokenizer encodes it; an embedding model compares by cosine.
        chat_template: a Jinja template (a file, the name of a shipped one, or the text) for messages of the roles
        query and document; without it the recipe's of a recognised model. instruction: what relevance means, for
        templates that read it; chat_template_kwargs: other variables of the template. truncate_prompt_tokens cuts
        only the document of a templated pair. pooling_params is one object; its extra_kwargs may hold
        max_tokens_per_query, max_tokens_per_doc and chat_template_kwargs.
        """
        scoring = ScoreOptions(self._session.prompts.source(chat_template), chat_template_kwargs, instruction)
        call = CallOptions(use_tqdm, lora_request, tokenization_kwargs, truncate_prompt_tokens, scoring=scoring)
        return self._session.score(data_1, data_2, pooling_params, call)

    # ---- life ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the threads; calls in other threads get EngineDeadError. Idempotent."""
        self._engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
