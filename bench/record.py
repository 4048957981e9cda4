"""What every result file says about its run, and where it lies."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import machine
from report import Limits, best_limits

RESULTS = Path(__file__).parent / "results"


def facts(benchmark: str, num_threads: int) -> dict[str, Any]:
    """Machine, versions, commit, command line."""
    return {
        "benchmark": benchmark,
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": machine.commit(),
        "num_threads": num_threads,
        "machine": machine.describe(),
    }


def header(benchmark: str, num_threads: int, limits: list[Limits], clock: str = "wall") -> dict[str, Any]:
    """The facts of a run, and the machine's limits as measured before, between and after."""
    measured = {"clock": clock, "limits": best_limits(limits), "limits_before_and_after": limits}
    return facts(benchmark, num_threads) | measured


def path_of(name: str, header: dict[str, Any]) -> Path:
    """results/<name>-<date>-<cpu>, without a suffix."""
    return RESULTS / f"{name}-{header['date']}-{header['machine']['cpu_slug']}"


def title(header: dict[str, Any]) -> str:
    """One line about the run for a picture."""
    return f"{header['machine']['cpu']}, {header['num_threads']} threads, {header['clock']} time, {header['date']}"


def write(path: Path, document: dict[str, Any], *, has_picture: bool = True) -> None:
    """The JSON file that path names without a suffix, beside its picture where there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path.parent / f"{path.name}.json"
    target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote bench/results/{path.name}.json{' and .png' if has_picture else ''}")


def picture(path: Path) -> Path:
    """The picture's own path."""
    return path.parent / f"{path.name}.png"
