"""How results are printed: JSON lines for programs, tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

BAR_WIDTH = 12


def print_json(record: dict[str, Any]) -> None:
    """One JSON object on one line; floats are written so that they read back as the same number."""
    sys.stdout.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def one_line(text: str, limit: int = 160) -> str:
    """`text` with its white space folded, cut to `limit` characters."""
    folded = " ".join(text[: 4 * limit].split())
    return folded if len(folded) <= limit and len(text) <= 4 * limit else folded[: limit - 1] + "…"


def bar(share: float) -> str:
    """A bar for a number from 0 to 1."""
    filled = round(BAR_WIDTH * min(max(share, 0.0), 1.0))
    return "█" * filled + "░" * (BAR_WIDTH - filled)


def number(value: float) -> str:
    """A score for people: four decimals, or six digits when it is large or tiny."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3e}"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table: names ending in `#` are numbers, aligned to the right; columns of texts take the free room."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", header_style="bold")
    for name in columns:
        is_number = name.endswith("#")
        header = name if name == "#" else name.removesuffix(" #")
        is_text = name in ("text", "document", "query", "value")
        ratio = 1 if is_text else None
        table.add_column(header, justify="right" if is_number else "left", ratio=ratio, no_wrap=not is_text)
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    _console().print(table)


def print_facts(facts: Iterable[tuple[str, object]], *, title: str) -> None:
    """Print `name  value` lines under a title; facts without a value are left out."""
    shown = [(name, _words(value)) for name, value in facts if value is not None and value != ""]
    width = max(len(name) for name, _ in shown) if shown else 0
    print(title)
    for name, value in shown:
        print(f"  {name:<{width}}  " + value.replace("\n", "\n" + " " * (width + 4)))


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value) or "none"
    return str(value)


def _plain(cell: str) -> Any:
    from rich.text import Text

    return Text(cell)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)
