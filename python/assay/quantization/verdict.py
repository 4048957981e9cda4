"""What the guard decided for one model, kept beside the other caches so that the next start need not measure again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from assay.quantization.figures import Figures

if TYPE_CHECKING:
    from assay.batch import Sequence

logger = logging.getLogger(__name__)

DIRECTORY: Final = "ASSAY_CACHE"
_OFF: Final = ("0", "off", "none")
_BLOCK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """kept: layers that stay in bfloat16. figures: of the model that results, against bfloat16."""

    num_layers: int
    kept: tuple[int, ...]
    figures: Figures

    def __str__(self) -> str:
        count = self.num_layers - len(self.kept)
        return f"int8 in {count} of {self.num_layers} layers: {self.figures} (against bfloat16)"


def cache_directory() -> Path | None:
    """Where verdicts are kept: ASSAY_CACHE, XDG_CACHE_HOME/assay or ~/.cache/assay; None where ASSAY_CACHE is "0"."""
    named = os.environ.get(DIRECTORY, "")
    if named.lower() in _OFF:
        return None
    if named:
        return Path(named).expanduser() / "int8"
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root else Path.home() / ".cache") / "assay" / "int8"


def fingerprint(weight_files: Iterable[Path], sequences: Iterable[Sequence], *settings: object) -> str:
    """A digest of everything a verdict rests on: the bytes of the checkpoint, the inputs, and `settings` as text."""
    digest = hashlib.blake2b(digest_size=16)
    for path in weight_files:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    for sequence in sequences:
        digest.update(repr((sequence.input_ids, sequence.token_type_ids)).encode())
    digest.update(repr(settings).encode())
    return digest.hexdigest()


def kept_verdict(key: str, num_layers: int) -> Verdict | None:
    """The verdict of an earlier start, or None; a file that cannot be one is ignored with a warning."""
    directory = cache_directory()
    if directory is None:
        return None
    path = directory / f"{key}.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as err:
        logger.warning("%s cannot be read (%s): measuring again", path, err)
        return None
    try:
        return _parsed(json.loads(text), key, num_layers)
    except (KeyError, TypeError, ValueError) as err:
        logger.warning("%s holds no verdict on this model (%r): measuring again", path, err)
        return None


def _parsed(values: Any, key: str, num_layers: int) -> Verdict:
    if values["fingerprint"] != key:
        raise ValueError(f"fingerprint {values['fingerprint']!r}")
    if values["num_layers"] != num_layers:
        raise ValueError(f"num_layers {values['num_layers']!r}")
    kept = tuple(values["kept"])
    if not all(type(index) is int and 0 <= index < num_layers for index in kept) or len(set(kept)) != len(kept):
        raise ValueError(f"kept {kept!r}")
    return Verdict(num_layers, kept, Figures(**values["figures"]))


def keep_verdict(key: str, verdict: Verdict, model: str) -> None:
    """Write it down; a disk that does not take it is only warned about."""
    directory = cache_directory()
    if directory is None:
        return
    path = directory / f"{key}.json"
    values = {"fingerprint": key, "model": model, **asdict(verdict)}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)  # another process must never read half a file
    except OSError as err:
        logger.warning("%s could not be written (%s): the next start measures again", path, err)
