"""How rows of a language-model head become a classifier: vLLM's values of the config key `method`.

`convert` says what they compute.
"""

from __future__ import annotations

from typing import Final

TWO_WAY: Final = "from_2_way_softmax"
PLAIN_ROWS: Final = "no_post_processing"
METHODS: Final = (TWO_WAY, PLAIN_ROWS)
