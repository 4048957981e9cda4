"""A light view over a model's `config.json`, readable without transformers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from assay.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Overrides = dict[str, Any] | Callable[["HFConfig"], "HFConfig | None"]

DEFAULT_NUM_LABELS = 2
"""What transformers assumes for a classifier whose config lists no labels."""


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, or {} where the file does not exist; raises ConfigError for anything else."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as err:
        raise ConfigError(f"{path} is not valid JSON: {err}") from err
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


class HFConfig:
    """Keys of `config.json` as attributes, with the derived values transformers adds.

    `num_labels`, `id2label` and `label2id` follow transformers: the label map decides, a bare `num_labels` makes
    LABEL_i names, and setting `num_labels` to another value replaces the map.
    """

    _values: dict[str, Any]

    def __init__(self, values: dict[str, Any]) -> None:
        object.__setattr__(self, "_values", {})
        self.update(values)

    @classmethod
    def from_folder(cls, folder: Path, overrides: Overrides | None = None) -> HFConfig:
        """Read `folder`/config.json and apply `overrides` (a dict, or a callable that gets the config)."""
        path = folder / "config.json"
        if not path.is_file():
            raise ConfigError(f"{folder} has no config.json: it is not a model folder")
        return cls(read_json(path)).overridden(overrides)

    def overridden(self, overrides: Overrides | None) -> HFConfig:
        """This config with keys changed (a dict), or what a callable makes of it.

        A part of it, such as text_config, is changed key by key; architectures named there are those of the whole.
        """
        if callable(overrides):
            changed = overrides(self)
            return self if changed is None else changed
        changes = dict(overrides or {})
        for name, value in list(changes.items()):
            own = self._values.get(name)
            if name.endswith("_config") and isinstance(value, dict) and isinstance(own, dict):
                changes[name] = {**own, **value}
                if "architectures" in value:
                    changes.setdefault("architectures", value["architectures"])
        self.update(changes)
        return self

    def update(self, values: dict[str, Any]) -> None:
        """Overwrite keys, as `hf_overrides` does."""
        for name in sorted(values, key=lambda key: key == "num_labels"):  # last: it is checked against id2label
            setattr(self, name, values[name])

    def get(self, name: str, default: Any = None) -> Any:
        """The value of `name`, or `default` where the config has no such key."""
        return self._values.get(name, default)

    def require(self, name: str, kind: type[int] | type[str] = int) -> Any:
        """The value of `name`; raises ConfigError where it is missing or of another kind."""
        value = self._values.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ConfigError(f"config.json: {name} must be of type {kind.__name__}, got {value!r}")
        return value

    def to_dict(self) -> dict[str, Any]:
        """A copy of the keys."""
        return dict(self._values)

    def copy(self) -> HFConfig:
        """An independent view over a copy of the keys."""
        return HFConfig(self._values)

    @property
    def architectures(self) -> list[str]:
        return list(self._values.get("architectures") or [])

    @property
    def num_labels(self) -> int:
        return len(self.id2label)

    @property
    def id2label(self) -> dict[int, str]:
        labels = self._values.get("id2label")
        if labels is None:
            return {i: f"LABEL_{i}" for i in range(self._values.get("num_labels", DEFAULT_NUM_LABELS))}
        return {int(key): str(label) for key, label in labels.items()}

    @property
    def label2id(self) -> dict[str, int]:
        return {label: i for i, label in self.id2label.items()}

    @property
    def problem_type(self) -> str | None:
        value = self._values.get("problem_type")
        return None if value is None else str(value)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"config.json has no key {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "num_labels" and value is not None:
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigError(f"config.json: num_labels must be a count, got {value!r}")
            if self._values.get("id2label") is not None and len(self._values["id2label"]) != value:
                del self._values["id2label"]
                self._values.pop("label2id", None)
        if name == "id2label" and value is not None:
            value = _checked_labels(value)
        self._values[name] = value

    def __repr__(self) -> str:
        return f"HFConfig({self._values!r})"


def _checked_labels(labels: Any) -> dict[int, str]:
    if not isinstance(labels, dict):
        raise ConfigError(f"config.json: id2label must map numbers to names, got {labels!r}")
    try:
        checked = {int(key): str(label) for key, label in labels.items()}
    except (TypeError, ValueError):
        raise ConfigError(f"config.json: id2label must map numbers to names, got keys {sorted(labels)}") from None
    if sorted(checked) != list(range(len(labels))):
        raise ConfigError(f"config.json: id2label must have the keys 0 to {len(labels) - 1}, got {sorted(checked)}")
    return dict(sorted(checked.items()))
