"""What quantization="int8" does at start-up: the calibration in the model's own prompts, and the guard's verdict."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay import ops
from assay.errors import ConfigError
from assay.llm.session import CallOptions
from assay.quantization import (
    Budget,
    Calibration,
    Verdict,
    built_in_pairs,
    built_in_texts,
    fingerprint,
    given,
    judge,
    keep_verdict,
    kept_verdict,
    layered,
    mixed,
)

if TYPE_CHECKING:
    from assay.engine import Job
    from assay.llm.session import Session
    from assay.llm.startup import Loaded

logger = logging.getLogger(__name__)


def guard(
    loaded: Loaded, session: Session, data: Any, load_reference: Callable[[], Loaded], budget: Budget | None = None
) -> Verdict:
    """Leave the model of `loaded` with the layers in int8 that the guard allows.

    data: the user's calibration prompts, or None for the built-in ones. load_reference gives the same model in
    bfloat16; it is called unless an earlier start left a verdict that needs none. Raises ConfigError where the
    budget cannot be met.
    """
    model, budget = loaded.model, budget or Budget()
    calibration = calibrate(session, data)
    settings = (
        model.architecture,
        model.arithmetic,
        model.task,
        model.pooler_config,
        model.hf_config.to_dict(),
        budget,
    )
    files = [Path(str(ops.cpu_module().__file__)), *loaded.weight_files]
    key = fingerprint(files, calibration.sequences, *settings, calibration.use_activation)
    verdict = kept_verdict(key, len(layered(model).layers))
    if verdict is None:
        verdict = judge(model, load_reference().model, calibration, budget)
        keep_verdict(key, verdict, loaded.name)
    elif verdict.kept:
        model.backbone = mixed(layered(model), layered(load_reference().model), verdict.kept)
    logger.info("%s: %s", loaded.name, verdict)
    return verdict


def calibrate(session: Session, data: Any) -> Calibration:
    """The calibration prompts as the session would run them; raises ConfigError where the task cannot take them."""
    job = _job(session, data)
    if session.renderer.tokenizer is None and any(not isinstance(prompt, list) for prompt in job.prompts):
        raise ConfigError(
            "quantization='int8' with skip_tokenizer_init=True needs quantization_data: a list of lists of token ids"
        )
    sequences = session.renderer.render(job.prompts, job.options, job.first_ones)
    return Calibration(sequences, job.use_activation)


def _job(session: Session, data: Any) -> Job:
    model = session.model
    call = CallOptions(truncate_prompt_tokens=-1)
    takes_pairs = model.task == "classify" and model.num_labels == 1
    prompts = given(data) if data is not None else built_in_pairs() if takes_pairs else built_in_texts()
    pairs = [prompt for prompt in prompts if isinstance(prompt, tuple)]
    if not pairs:
        return session.prepare_encode(model.task, prompts, None, call).job
    if not takes_pairs or len(pairs) < len(prompts):
        raise ConfigError(
            "quantization_data: pairs are for models that score them, and then every prompt must be one; got "
            f"{len(pairs)} pairs among {len(prompts)} prompts for task {model.task} with {model.num_labels} labels"
        )
    return session.prepare_score([first for first, _ in pairs], [second for _, second in pairs], None, call).job
