from __future__ import annotations

import torch

from assay.batch import Sequence
from assay.forward import Request
from assay.result_cache import BYTES_PER_TOKEN, ENTRY_BYTES, ResultCache


def entry_bytes(num_tokens: int, num_values: int) -> int:
    return ENTRY_BYTES + BYTES_PER_TOKEN * num_tokens + 4 * num_values


def test_a_result_comes_back_as_a_copy() -> None:
    cache, data = ResultCache(100_000), torch.tensor([1.0, 2.0])
    assert cache.get(None, "key") is None
    cache.put(None, "key", 10, data)
    data.zero_()
    found = cache.get(None, "key")
    assert found is not None and found.tolist() == [1.0, 2.0]
    found.zero_()
    again = cache.get(None, "key")
    assert again is not None and again.tolist() == [1.0, 2.0]
    assert (cache.num_hits, cache.num_misses) == (2, 1)


def test_salts_do_not_share() -> None:
    cache = ResultCache(100_000)
    cache.put("a", "key", 1, torch.ones(1))
    assert cache.get("b", "key") is None
    assert cache.get(None, "key") is None
    assert cache.get("a", "key") is not None


def test_the_least_recently_used_goes_and_the_bytes_stay_below_the_limit() -> None:
    cache = ResultCache(3 * entry_bytes(10, 2))
    for name in "abc":
        cache.put(None, name, 10, torch.ones(2))
    cache.get(None, "a")
    cache.put(None, "d", 10, torch.ones(2))
    assert [cache.get(None, name) is not None for name in "abcd"] == [True, False, True, True]
    assert cache.num_bytes == 3 * entry_bytes(10, 2)
    cache.put(None, "d", 20, torch.ones(2))
    assert cache.num_bytes <= 3 * entry_bytes(10, 2)


def test_a_result_larger_than_the_cache_is_not_kept() -> None:
    cache = ResultCache(entry_bytes(10, 2))
    cache.put(None, "small", 10, torch.ones(2))
    cache.put(None, "large", 10, torch.ones(3))
    assert cache.get(None, "small") is not None
    assert cache.get(None, "large") is None


def test_keys_differ_in_everything_a_result_depends_on() -> None:
    class Nobody:
        pass

    def key(ids: list[int], types: list[int] | None = None, use_activation: bool = True, dimensions: int | None = None):  # type: ignore[no-untyped-def]
        return Request(Sequence(ids, types), use_activation, dimensions, Nobody()).key()  # type: ignore[arg-type]

    keys = [
        key([1, 2, 3]),
        key([1, 2]),
        key([1, 3, 2]),
        key([1, 2, 300]),
        key([1, 2, 3], [0, 1, 1]),
        key([1, 2, 3], [0, 0, 1]),
        key([1, 2, 3], use_activation=False),
        key([1, 2, 3], dimensions=1),
    ]
    assert len(set(keys)) == len(keys)
    assert key([1, 2, 3], [0, 1, 1]) == keys[4]
