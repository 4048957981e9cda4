"""How long from a fresh process to the first score? assay beside sentence-transformers, same checkpoint, same pair.

python bench/bench_startup.py [--model FOLDER] [--runs 5] [--threads 2]

Every run is a process of its own; the contenders take turns, after one uncounted turn that fills the page cache and
writes Python's compiled files. A run has three parts: importing the library (torch in it), loading the model, the first
score. Medians and ranges are printed of the wall clock and, because others may use the machine, of CPU seconds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import checkpoints
import machine

RESULTS: Final = Path(__file__).parent / "results"
PAIR: Final = ("how long does the battery last?", "A charge of the battery lasts two days and a half.")
MIB_IN_KIB: Final = 1024

IMPORTS: Final = {
    "assay": "import assay, torch\nfrom assay.llm import offline",
    "sentence-transformers": "from sentence_transformers import CrossEncoder",
}
LOADS: Final = {
    "assay": "model = assay.LLM({folder!r}, num_threads={threads})",
    "sentence-transformers": "model = CrossEncoder({folder!r}, device='cpu')",
}
SCORES: Final = {
    "assay": "score = model.score({query!r}, [{document!r}], use_tqdm=False)[0].outputs.score",
    "sentence-transformers": "score = float(model.predict([({query!r}, {document!r})], show_progress_bar=False)[0])",
}
PROGRAM: Final = """
import json, resource, time
def now():
    return time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
marks = [now()]
{imports}
marks.append(now())
{loads}
marks.append(now())
{scores}
marks.append(now())
print(json.dumps({{"score": score, "marks": marks}}))
"""
PARTS: Final = ("import", "load", "first score")


def run(contender: str, folder: Path, threads: int) -> dict[str, Any]:
    """One fresh process: seconds of each part on both clocks, peak memory in MiB after the import and at the end."""
    words = {"folder": str(folder), "threads": threads, "query": PAIR[0], "document": PAIR[1]}
    program = PROGRAM.format(
        imports=IMPORTS[contender],
        loads=LOADS[contender].format(**words),
        scores=SCORES[contender].format(**words),
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    marks = found["marks"]
    seconds = {
        clock: {part: marks[i + 1][column] - marks[i][column] for i, part in enumerate(PARTS)}
        for column, clock in enumerate(("wall_s", "cpu_s"))
    }
    memory = {"imported_mib": marks[1][2] / MIB_IN_KIB, "peak_mib": marks[3][2] / MIB_IN_KIB}
    return {"contender": contender, "score": found["score"], **seconds, **memory}


def report(runs: list[dict[str, Any]]) -> str:
    """A line per contender and clock: medians of the parts and of their sum, with its range.

    Only the sum compares the contenders: one of them imports early what the other loads late, or not at all.
    """
    lines = []
    for contender in IMPORTS:
        own = [entry for entry in runs if entry["contender"] == contender]
        for clock in ("wall_s", "cpu_s"):
            parts = [statistics.median(entry[clock][part] for entry in own) for part in PARTS]
            whole = [sum(entry[clock].values()) for entry in own]
            lines.append(
                f"{contender:22} {clock}  import {parts[0]:6.2f}  load {parts[1]:6.3f}  first score {parts[2]:6.3f}  "
                f"together {statistics.median(whole):6.2f} ({min(whole):.2f}..{max(whole):.2f})"
            )
        imported, peak = (statistics.median(entry[key] for entry in own) for key in ("imported_mib", "peak_mib"))
        lines.append(f"{contender:22} peak memory {peak:.0f} MiB, {imported:.0f} MiB of it by the import")
    return "\n".join(lines)


def main() -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a cross-encoder folder (default: MiniLM-L6 with a seeded head)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "assay-bench")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    folder = args.model or checkpoints.checkpoint_folder("minilm", args.cache)
    runs: list[dict[str, Any]] = []
    for turn in range(args.runs + 1):
        found = [run(contender, folder, args.threads) for contender in IMPORTS]
        runs += found if turn else []
    print(report(runs))
    if args.no_save:
        return
    info = machine.describe()
    name = f"startup-{datetime.date.today()}-{machine.cpu_slug(machine.cpuinfo())}.json"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps({"machine": info, "model": folder.name, "runs": runs}, indent=1) + "\n")
    print(f"saved {RESULTS / name}")


if __name__ == "__main__":
    main()
