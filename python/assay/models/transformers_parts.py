"""What a transformers model is taken apart into: a backbone on ragged batches and, for a classifier, its head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from assay.layers import Linear
    from assay.models.transformers_backbone import TransformersBackbone
    from assay.models.transformers_head import HeadModules


@dataclass(frozen=True, slots=True)
class LoadedParts:
    """before: the head's modules ahead of its last linear layer, None where there are none. classifier: that layer."""

    backbone: TransformersBackbone
    before: HeadModules | None = None
    classifier: Linear | None = None

    def logits(self, rows: Tensor) -> Tensor:
        """rows [num_rows, hidden_size] float32 -> [num_rows, num_labels]."""
        assert self.classifier is not None
        return self.classifier(rows if self.before is None else self.before(rows))
