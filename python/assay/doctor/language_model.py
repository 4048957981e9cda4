"""What transformers has to do for a classifier made of a language model: its prompt, and the logits it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.head_methods import TWO_WAY
from assay.scoring import uses_separator

if TYPE_CHECKING:
    from torch import Tensor

    from assay.doctor.inputs import Example
    from assay.hf_config import HFConfig
    from assay.recipes import Recipe


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """config: with the label tokens and the method; recipe: whose template renders pairs, if there is one."""

    config: HFConfig
    recipe: Recipe | None

    @property
    def num_labels(self) -> int:
        """Values the logits are made to."""
        return 1 if self._is_two_way else len(self.config.classifier_from_token)

    @property
    def _is_two_way(self) -> bool:
        return self.config.get("method") == TWO_WAY or bool(self.config.get("is_original_qwen3_reranker"))

    def texts(self, tokenizer: Any, example: Example) -> list[str]:
        """What a transformers tokenizer encodes: one text, or a pair of them."""
        if example.pair is None:
            return [example.text]
        source = None if self.recipe is None else self.recipe.template_source()
        if self.recipe is not None and source is not None:
            messages = [{"role": "query", "content": example.text}, {"role": "document", "content": example.pair}]
            if self.recipe.prompt:
                messages.insert(0, {"role": "system", "content": self.recipe.prompt})
            text: str = tokenizer.apply_chat_template(
                messages, chat_template=source, tokenize=False, **self.recipe.template_kwargs
            )
            return [text]
        return [example.text, example.pair] if uses_separator(self.config) else [example.text + example.pair]

    def logits(self, tokenizer: Any, last: Tensor) -> Tensor:
        """last [vocab_size]: the language model's logits behind the prompt -> [num_labels]."""
        values = last[tokenizer.convert_tokens_to_ids(list(self.config.classifier_from_token))]
        return values[1:] - values[:1] if self._is_two_way else values
