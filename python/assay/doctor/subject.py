"""Our side: tokenizer, model and head as `LLM` uses them, one input at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from assay.adapt import adapt
from assay.arena import Arena
from assay.batch import Sequence, pack
from assay.config import PoolerConfig
from assay.convert import asks_for_rows
from assay.doctor.language_model import LanguageModel
from assay.doctor.trace import Trace
from assay.hf_config import HFConfig
from assay.models import load_model
from assay.models.transformers_backbone import TransformersBackbone
from assay.scoring import uses_separator
from assay.templated import ScoreTemplate, added_bos
from assay.templates import Template
from assay.tokenizer import Tokenizer

if TYPE_CHECKING:
    from assay.doctor.inputs import Example
    from assay.doctor.trace import Array
    from assay.files import ModelFiles

MAX_BATCH_TOKENS = 4096
MAX_BATCH_SIZE = 32


class Subject:
    """A model run by assay."""

    def __init__(self, files: ModelFiles, *, dtype: str = "auto", hf_overrides: dict[str, Any] | None = None) -> None:
        config = HFConfig.from_folder(files.folder, hf_overrides)
        adapted = adapt(files, config, PoolerConfig())
        self.model = load_model(
            files,
            adapted.hf_config,
            dtype=dtype,
            pooler_config=adapted.pooler_config,
            max_batch_tokens=MAX_BATCH_TOKENS,
            max_batch_size=MAX_BATCH_SIZE,
        )
        self.tokenizer = Tokenizer.from_files(files, config)
        limit = self.tokenizer.model_max_length
        self.max_length = self.model.max_model_len if limit is None else min(limit, self.model.max_model_len)
        self.recipe = None if adapted.match is None else adapted.match.recipe
        self._template = self._score_template()

    @property
    def language_model(self) -> LanguageModel | None:
        """How transformers runs the model, where its head is made of a language model's."""
        config = self.model.hf_config
        return LanguageModel(config, self.recipe) if asks_for_rows(config) else None

    def _score_template(self) -> ScoreTemplate | None:
        source = None if self.recipe is None else self.recipe.template_source()
        if self.recipe is None or source is None:
            return None
        template = Template(source, self.tokenizer.facts.special_tokens)
        return ScoreTemplate(
            template, self.recipe.template_kwargs, self.recipe.prompt, added_bos=added_bos(self.tokenizer)
        )

    def reads(self, example: Example) -> bool:
        """Whether an input can be compared: an empty one has no result, and which words of a long templated pair are
        cut is this package's own rule.
        """
        if self.language_model is None and self._template is None:
            return len(self.encode(example)) > 0
        (sequence,) = self.tokenizer.encode_batch([self._text(example)])
        return 0 < len(sequence) <= self.max_length

    def encode(self, example: Example) -> Sequence:
        """Token ids, cut to the model's length by the tokenizer."""
        texts = [self._text(example)]
        return self.tokenizer.encode_batch(texts, max_length=self.max_length, truncate_to=self.max_length)[0]

    def _text(self, example: Example) -> str | tuple[str, str]:
        """What the tokenizer is given: for a pair what a template makes of it, or the two texts, together or apart."""
        if example.pair is None:
            return example.text
        if self._template is not None:
            return self._template.text(example.text, example.pair)
        return example.as_input if uses_separator(self.model.hf_config) else example.text + example.pair

    def trace(self, example: Example) -> Trace:
        """Tokenise and run one input, alone."""
        sequence = self.encode(example)
        types = sequence.token_type_ids or [0] * len(sequence)
        return Trace(sequence.input_ids, types, self._run([sequence], False)[0], self._run([sequence], True)[0])

    def hidden_states(self, sequence: Sequence) -> Array:
        """[num_tokens, hidden_size] after the last layer, before any pooling or head."""
        arena = Arena(self.model.arena_size(len(sequence), 1))
        backbone = self.model.backbone
        if isinstance(backbone, TransformersBackbone):
            backbone = replace(backbone, late_head=None)
        states: Array = backbone(pack([sequence], self.model.position_offset), arena).double().numpy()
        return states

    def changes_in_batches(self, sequences: list[Sequence], alone: list[Array]) -> int:
        """How many results are not bit for bit what they are alone when the inputs are run in batches."""
        import numpy as np

        results: list[Array] = []
        for start in range(0, len(sequences), MAX_BATCH_SIZE):
            results += self._run(sequences[start : start + MAX_BATCH_SIZE], False)
        return sum(not np.array_equal(a, b, equal_nan=True) for a, b in zip(results, alone, strict=True))

    def _run(self, sequences: list[Sequence], use_activation: bool) -> list[Array]:
        batches, tokens = [[]], 0  # type: list[list[Sequence]], int
        for sequence in sequences:
            if batches[-1] and tokens + len(sequence) > MAX_BATCH_TOKENS:
                batches.append([])
                tokens = 0
            batches[-1].append(sequence)
            tokens += len(sequence)
        results: list[Array] = []
        for batch in batches:
            flags = [use_activation] * len(batch)
            results += [row.double().numpy() for row in self.model.run(pack(batch, self.model.position_offset), flags)]
        return results
