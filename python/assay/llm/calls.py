"""What every call checks before work starts: the task, one PoolingParams per prompt, and the progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from assay.errors import ValidationError
from assay.params import PoolingParams
from assay.tasks import CLASSIFY_TASKS, EMBED_TASKS, REMOVED_TASKS

if TYPE_CHECKING:
    from assay.hf_config import HFConfig
    from assay.params import PoolerDefaults

PROGRESS_DELAY_S: Final = 0.2
"""A call that is done before this shows no bar (a caller's own factory always gets one)."""

_TASK_REQUIRED: Final = """pooling_task required for `LLM.encode`.
                Please use one of the more specific methods or set the pooling_task when using `LLM.encode`:
                  - For embeddings, use `LLM.embed(...)` or `pooling_task="embed"`.
                  - For classification logits, use `LLM.classify(...)` or `pooling_task="classify"`.
                  - For similarity scores, use `LLM.score(...)`.
                  - For rewards, `pooling_task="classify"` or `pooling_task="token_classify"`.
                  - For token classification, use `pooling_task="token_classify"`.
                  - For multi-vector retrieval, use `pooling_task="token_embed"`.
"""


def check_task(task: str | None, supported: Sequence[str], active: str) -> str:
    """`task`, if the model runs it; raises ValueError with what to do instead."""
    if task is None:
        raise ValidationError(f"\n                {_TASK_REQUIRED}                ")
    if task in REMOVED_TASKS:
        raise ValidationError(REMOVED_TASKS[task], parameter="task")
    if task in supported:
        if task != active:
            raise ValidationError(f'Try switching the model\'s pooling_task via `PoolerConfig(task="{task}")`')
        return task
    if task in EMBED_TASKS:
        raise ValidationError(
            "Embedding API is not supported by this model. Try converting the model using `--convert embed`."
        )
    if task in CLASSIFY_TASKS:
        raise ValidationError(
            "Classification API is not supported by this model. Try converting the model using `--convert classify`."
        )
    if task == "plugin":
        raise ValidationError(
            "No IOProcessor plugin installed. Please refer to the documentation and to the "
            "'prithvi_geospatial_mae_io_processor' offline inference example for more details."
        )
    raise ValidationError(f"Unsupported task: {task!r} Supported tasks: {tuple(supported)}")


def params_per_prompt(
    pooling_params: Any, count: int, task: str, defaults: PoolerDefaults, hf_config: HFConfig
) -> list[PoolingParams]:
    """`count` checked copies (one shared copy where the caller gave one object); the caller's are never changed."""
    if not isinstance(pooling_params, Sequence):
        return [_resolved(pooling_params, task, defaults, hf_config)] * count
    if len(pooling_params) != count:
        raise ValidationError(f"The lengths of prompts ({count}) and params ({len(pooling_params)}) must be the same.")
    return [_resolved(params, task, defaults, hf_config) for params in pooling_params]


def _resolved(params: Any, task: str, defaults: PoolerDefaults, hf_config: HFConfig) -> PoolingParams:
    if params is None:
        params = PoolingParams()
    if not isinstance(params, PoolingParams):
        raise ValidationError(f"pooling_params must be PoolingParams or a list of them, got {type(params).__name__}")
    if params.task is not None and params.task != task:
        raise ValidationError(f"You cannot overwrite param.task={params.task!r} with pooling_task={task!r}!")
    resolved = params.resolved(task, defaults)
    if resolved.dimensions is not None:
        _check_dimensions(resolved.dimensions, hf_config)
    return resolved


def _check_dimensions(dimensions: Any, hf_config: HFConfig) -> None:
    """Embeddings may be shortened only where the model was trained for it."""
    trained = hf_config.get("matryoshka_dimensions")
    if not trained and not hf_config.get("is_matryoshka"):
        raise ValidationError(
            f"dimensions={dimensions}: this model does not support matryoshka representation, "
            f"changing output dimensions will lead to poor results."
        )
    if trained and dimensions not in trained:
        raise ValidationError(f"dimensions must be one of {list(trained)}, got {dimensions!r}")
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or dimensions < 1:
        raise ValidationError(f"dimensions must be a positive integer, got {dimensions!r}")


@contextmanager
def progress(use_tqdm: bool | Callable[..., Any], total: int) -> Iterator[Callable[[], object] | None]:
    """A bar named "Processed prompts"; yields its update function, or None where nothing is to be shown.

    use_tqdm True draws one with tqdm for calls of several prompts that take a while; a callable is called like tqdm.
    """
    if use_tqdm is False or use_tqdm is None or (use_tqdm is True and total == 1):
        yield None
        return
    if use_tqdm is True:
        from tqdm.auto import tqdm

        bar: Any = tqdm(total=total, desc="Processed prompts", dynamic_ncols=True, delay=PROGRESS_DELAY_S)
    else:
        bar = use_tqdm(total=total, desc="Processed prompts")
    try:
        yield lambda: bar.update(1)
    finally:
        bar.close()
