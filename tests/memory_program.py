"""A process that runs many full batches and says what memory that took: `python memory_program.py JSON`.

The argument has the keywords of LLM under "llm" and the number of batches under "num_batches". Prints an object with
peak_bytes, and the resident bytes after the first half of the batches (half_bytes) and after all (end_bytes).
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

from assay import LLM
from assay.memory import own_memory

FIRST_ID = 5
"""Lower ids are special in the generated tokenizers."""


def lengths(total: int, longest: int, rng: random.Random) -> list[int]:
    """Random lengths that add up to `total`."""
    found: list[int] = []
    while (left := total - sum(found)) > 0:
        found.append(min(left, rng.randint(1, longest)))
    return found


def main() -> None:
    asked = json.loads(sys.argv[1])
    llm = LLM(**asked["llm"])
    model: Any = llm.session.model
    # A table in the mapped file gets its pages as rows are used: all of them now, to see what else grows.
    float(model.backbone.embeddings.word.amax())
    rng = random.Random(0)
    residents = []
    for _ in range(2):
        for _ in range(asked["num_batches"] // 2):
            prompts = [
                {"prompt_token_ids": [rng.randrange(FIRST_ID, model.vocab_size) for _ in range(length)]}
                for length in lengths(model.max_batch_tokens, model.max_model_len, rng)
            ]
            llm.encode(prompts, pooling_task=llm.pooling_task, use_tqdm=False)
        residents.append(own_memory().resident_bytes)
    print(json.dumps({"peak_bytes": own_memory().peak_bytes, "half_bytes": residents[0], "end_bytes": residents[1]}))


if __name__ == "__main__":
    main()
