"""config.json as the models see it."""

from __future__ import annotations

import json

import pytest

from assay.errors import ConfigError
from assay.hf_config import HFConfig


def write(folder, **values):
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def test_attributes_and_get(tmp_path):
    config = HFConfig.from_folder(write(tmp_path, hidden_size=8, architectures=["BertModel"]))
    assert config.hidden_size == 8
    assert config.architectures == ["BertModel"]
    assert config.get("missing", 5) == 5 and "missing" not in config
    with pytest.raises(AttributeError, match="missing"):
        _ = config.missing


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ({}, ["LABEL_0", "LABEL_1"]),
        ({"num_labels": 1}, ["LABEL_0"]),
        ({"id2label": {"0": "no", "1": "yes"}}, ["no", "yes"]),
        ({"id2label": {"1": "yes", "0": "no"}}, ["no", "yes"]),
        ({"num_labels": 3, "id2label": {"0": "a"}}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"id2label": {str(i): f"L{i}" for i in range(12)}}, [f"L{i}" for i in range(12)]),
    ],
)
def test_labels_follow_the_map_then_the_count(tmp_path, values, labels):
    config = HFConfig.from_folder(write(tmp_path, **values))
    assert list(config.id2label.values()) == labels
    assert config.num_labels == len(labels)
    assert config.label2id == {label: i for i, label in enumerate(labels)}


def test_overrides_as_dict_and_as_callable(tmp_path):
    write(tmp_path, id2label={"0": "no", "1": "yes"}, problem_type="regression")
    config = HFConfig.from_folder(tmp_path, {"num_labels": 3, "problem_type": None, "extra": {"a": 1}})
    assert (config.num_labels, config.problem_type, config.extra) == (3, None, {"a": 1})

    def change(config):
        config.num_labels = 1
        config.architectures = ["X"]

    config = HFConfig.from_folder(tmp_path, change)
    assert (config.num_labels, config.architectures) == (1, ["X"])
    assert HFConfig.from_folder(tmp_path, lambda config: HFConfig({"a": 1})).to_dict() == {"a": 1}


@pytest.mark.parametrize("labels", [{"0": "a", "2": "b"}, {"x": "a"}, ["a", "b"]])
def test_label_maps_that_are_no_numbering_are_refused(tmp_path, labels):
    with pytest.raises(ConfigError, match="id2label"):
        HFConfig.from_folder(write(tmp_path, id2label=labels))


def test_broken_folders_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no config\.json"):
        HFConfig.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid JSON"):
        HFConfig.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="JSON object, got list"):
        HFConfig.from_folder(tmp_path)


def test_require_names_key_kind_and_value(tmp_path):
    config = HFConfig.from_folder(write(tmp_path, hidden_size="big", flag=True))
    for key in ("hidden_size", "flag", "missing"):
        with pytest.raises(ConfigError, match=key):
            config.require(key)
