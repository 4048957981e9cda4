"""A model as an adapter changes it: which weights it reads, and how many labels its classifier tells apart."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from assay.errors import ConfigError
from assay.lora.weights import AdaptedWeights
from assay.models.family import SEQUENCE, TOKEN
from assay.models.transformers_class import Outline

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from assay.device import Device
    from assay.hf_config import HFConfig
    from assay.lora.adapter import Adapter
    from assay.models.plan import Plan
    from assay.models.pooling_model import PoolingModel
    from assay.weights import Parts

_SUFFIXES: Final = {"SEQ_CLS": SEQUENCE, "TOKEN_CLS": TOKEN}


def as_trained(config: HFConfig, adapter: Adapter) -> HFConfig:
    """The base's config with the class that PEFT trained, where its own names a language model or a bare one."""
    suffix = _SUFFIXES.get(adapter.task_type)
    name = re.fullmatch(r"(\w+?)(Model|For\w+)", next(iter(config.architectures), ""))
    if suffix is not None and name is not None:
        config.update({"architectures": [name[1] + suffix]})
    return config


@dataclass(frozen=True, slots=True)
class Adaptation:
    """base: the model itself, loaded with `parts`; None and no parts where the adapter is all that is loaded.

    max_labels: rows that a classifier of the adapter may have; None for any number.
    """

    adapter: Adapter
    base: PoolingModel | None = None
    parts: Parts = field(default_factory=dict)
    max_labels: int | None = None

    def weights(self, paths: Sequence[Path], device: Device, plan: Plan) -> AdaptedWeights:
        """The checkpoint at `paths` with the adapter's changes, for a family of this package."""
        loader, prefixes = plan.family.backbone, plan.family.prefixes
        assert not isinstance(loader, Outline)
        transposed = {prefix + name for name in loader.transposed_tensors(plan.shape) for prefix in (*prefixes, "")}
        return AdaptedWeights(
            paths, device, adapter=self.adapter, parts=self.parts, prefixes=prefixes, transposed=transposed
        )

    def config(self, plan: Plan) -> HFConfig:
        """The base's config, with another num_labels where the adapter has a classifier of its own with as many rows.

        Raises ConfigError for more than max_labels.
        """
        config = plan.hf_config
        head = None if plan.head_shape is None else plan.head_shape.classifier
        rows = None if head is None else self.adapter.num_rows(f"{head}.weight")
        if rows is None or rows == config.num_labels:
            return config
        if self.max_labels is not None and rows > self.max_labels:
            raise ConfigError(
                f"adapter {self.adapter.name!r}: {head} has {rows} rows, at most {self.max_labels} are allowed: raise "
                f"max_lora_cls_labels"
            )
        config = config.copy()
        config.update({"num_labels": rows})
        return config
