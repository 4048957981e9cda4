"""What the parity tests share: checkpoints made once, transformers' answers, and the budgets of docs/design."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers

from assay.batch import Sequence, pack
from assay.config import PoolerConfig
from assay.files import resolve_model
from assay.hf_config import HFConfig
from assay.models import PoolingModel, load_model
from assay.tokenizer import Tokenizer
from tiny_models import all_inputs, make

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    Text = str | tuple[str, str]

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

_folders: dict[tuple[str, str, int], Path] = {}
_references: dict[Path, Reference] = {}


@dataclass(frozen=True)
class Reference:
    """Token ids and types, and per input the logits of transformers in float32 and in bfloat16."""

    inputs: list[Text]
    ids: list[list[int]]
    types: list[list[int]]
    float32: list[torch.Tensor]
    bfloat16: list[torch.Tensor]


def checkpoint(tmp_path_factory: pytest.TempPathFactory, name: str, head: str, seed: int = 0) -> Path:
    """A random checkpoint, made once per session."""
    key = name, head, seed
    if key not in _folders:
        _folders[key] = make(tmp_path_factory.mktemp(name) / "model", name, head, seed=seed)
    return _folders[key]


def load(folder: Path, *, dtype: str = "auto", config: PoolerConfig | None = None, **overrides: Any) -> PoolingModel:
    """Our model of a folder."""
    files = resolve_model(folder)
    hf_config = HFConfig.from_folder(files.folder, overrides or None)
    pooler_config = config or PoolerConfig()
    return load_model(
        files, hf_config, dtype=dtype, pooler_config=pooler_config, max_batch_tokens=2048, max_batch_size=32
    )


def tokenizer(folder: Path) -> Tokenizer:
    """Our tokenizer of a folder."""
    return Tokenizer.from_files(resolve_model(folder))


def hf_encoding(tokenizer: Any, text: Text, max_length: int) -> Any:
    """Transformers' encoding as a batch of one; a pair is passed as lists, which keeps an empty second text."""
    texts = ([text],) if isinstance(text, str) else ([text[0]], [text[1]])
    return tokenizer(*texts, truncation=True, max_length=max_length, return_tensors="pt")


def hf_logits(model: Any, encodings: list[Any]) -> list[torch.Tensor]:
    """Transformers' logits, one input at a time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return [model(**encoding).logits[0].float() for encoding in encodings]
    finally:
        torch.set_num_threads(threads)


def reference(folder: Path, name: str, head: str, max_length: int) -> Reference:
    """Transformers on every test input, computed once per session and folder."""
    if folder not in _references:
        _references[folder] = make_reference(folder, name + head, all_inputs(), max_length)
    return _references[folder]


def make_reference(folder: Path, class_name: str, inputs: list[Text], max_length: int) -> Reference:
    """Transformers on `inputs`, eager attention."""
    hf_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encodings = [hf_encoding(hf_tokenizer, text, max_length) for text in inputs]
    ids = [encoding["input_ids"][0].tolist() for encoding in encodings]
    zeros = [[0] * len(row) for row in ids]
    has_types = "token_type_ids" in encodings[0]
    types = [encoding["token_type_ids"][0].tolist() for encoding in encodings] if has_types else zeros
    model = getattr(transformers, class_name).from_pretrained(folder, attn_implementation="eager").eval()
    exact = hf_logits(model, encodings)
    return Reference(inputs, ids, types, exact, hf_logits(model.to(torch.bfloat16), encodings))


def run(model: PoolingModel, sequences: list[Sequence], use_activation: bool = False) -> list[torch.Tensor]:
    """Our results, in batches of mixed lengths."""
    results = []
    for start in range(0, len(sequences), 16):
        batch = sequences[start : start + 16]
        results += model.run(pack(batch, model.position_offset), [use_activation] * len(batch))
    return results


def max_error(ours: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """The largest absolute difference."""
    return max((a - b).abs().max().item() for a, b in zip(ours, exact, strict=True))


def mean_error(ours: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """The mean absolute difference: what a maximum over few inputs leaves to chance."""
    return torch.cat([(a - b).abs().flatten() for a, b in zip(ours, exact, strict=True)]).mean().item()


def float32_budget(exact: list[torch.Tensor]) -> float:
    """1e-4 of the largest logit, or of 1."""
    return 1e-4 * max(1.0, max(logits.abs().max().item() for logits in exact))


def kendall_tau(a: torch.Tensor, b: torch.Tensor) -> float:
    """Concordant minus discordant pairs over all pairs (ties in both count as concordant)."""
    signs_a = torch.sign(a[:, None] - a[None, :])
    signs_b = torch.sign(b[:, None] - b[None, :])
    upper = torch.triu(torch.ones(len(a), len(a), dtype=torch.bool), diagonal=1)
    agree = torch.where((signs_a == 0) & (signs_b == 0), 1.0, signs_a * signs_b)
    return agree[upper].mean().item()


def mean_tau(ours: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """Kendall tau of the inputs' order by each label (of the first token), averaged over the labels."""
    a, b = (torch.stack([row if row.ndim == 1 else row[0] for row in rows]) for rows in (ours, exact))
    return sum(kendall_tau(a[:, label], b[:, label]) for label in range(a.shape[1])) / a.shape[1]
