"""Real clients against a live server: install them, call, compare with the library, report.

python clients/run.py [--only WORD] [--record] [--upgrade]
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))

import record
from cases import CASES, SECOND_LOOK, Case
from environments import Environment, InstallError
from live_server import exit_on_sigterm
from program import Program, ProgramError
from proxy import Proxy
from scenarios import Outcome, Stage, scenarios_of
from served import BUILD, NAMES, expected, start_server


def prepared_environments(cases: list[Case], *, upgrade: bool) -> tuple[dict[str, Environment], dict[str, str]]:
    """The environments that could be installed, and why the others could not."""
    ready: dict[str, Environment] = {}
    failed: dict[str, str] = {}
    for name in dict.fromkeys(case.environment for case in cases):
        environment = Environment(name)
        try:
            environment.prepare(upgrade=upgrade)
            ready[name] = environment
        except InstallError as err:
            failed[name] = str(err)
    return ready, failed


def play(case: Case, stage: Stage, *, keep: bool) -> list[Outcome]:
    """All scenarios of one case; keep: write down what the client sent."""
    outcomes = []
    for scenario in scenarios_of(case):
        stage.proxy.log.take()
        outcome = scenario(case, stage)
        outcomes.append(outcome)
        mark = "ok  " if outcome.problem is None else "FAIL"
        print(f"{mark} {case.name:36} {outcome.scenario:10} {outcome.seen}", flush=True)
        if outcome.problem:
            print(f"     {outcome.problem}", flush=True)
        is_new = case.environment != SECOND_LOOK
        if keep and is_new and outcome.scenario == "happy" and outcome.problem is None:
            record.write(case, stage.program.versions, outcome.exchanges)
    return outcomes


def play_model(name: str, cases: list[Case], environments: dict[str, Environment], *, keep: bool) -> list[Outcome]:
    """All cases that need the model of that name, on one server."""
    truth = expected(name)
    outcomes: list[Outcome] = []
    with start_server(name) as server, Proxy(server.port) as proxy, contextlib.ExitStack() as stack:
        programs: dict[tuple[str, str], Program] = {}
        for case in cases:
            key = case.environment, case.program
            if key not in programs:
                program = Program(environments[key[0]].python, key[1], BUILD / f"{'-'.join(key)}-{name}.log")
                programs[key] = stack.enter_context(program)
            stage = Stage(programs[key], proxy, server.port, truth)
            outcomes += play(case, stage, keep=keep)
        if not server.is_running:
            raise SystemExit(f"the server of {name} died:\n{server.log_tail()}")
    return outcomes


def report(outcomes: list[Outcome], failed: dict[str, str], skipped: list[Case]) -> None:
    """build/clients/report.json."""
    document = {
        "outcomes": [
            {
                "case": o.case.name,
                "scenario": o.scenario,
                "problem": o.problem,
                "seen": o.seen,
                "statuses": [exchange.status for exchange in o.exchanges],
            }
            for o in outcomes
        ],
        "not_installed": failed,
        "not_run": [case.name for case in skipped],
    }
    path = BUILD / "report.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


def main() -> int:
    """0 if every call that could be made went as it must, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases with this word in their name")
    parser.add_argument("--record", action="store_true", help="write what the clients send to tests/fixtures")
    parser.add_argument("--upgrade", action="store_true", help="install the newest releases again")
    args = parser.parse_args()
    exit_on_sigterm()
    chosen = [case for case in CASES if args.only in case.name]
    environments, failed = prepared_environments(chosen, upgrade=args.upgrade)
    runnable = [case for case in chosen if case.environment in environments]
    by_model: dict[str, list[Case]] = collections.defaultdict(list)
    for case in runnable:
        by_model[NAMES[case.kind]].append(case)
    outcomes: list[Outcome] = []
    for name, cases in by_model.items():
        outcomes += play_model(name, cases, environments, keep=args.record)
    skipped = [case for case in chosen if case not in runnable]
    report(outcomes, failed, skipped)
    for name, reason in failed.items():
        print(f"NOT RUN: environment {name} could not be installed: {reason}")
    for case in skipped:
        print(f"NOT RUN: {case.name}")
    problems = sum(outcome.problem is not None for outcome in outcomes)
    print(f"{len(outcomes) - problems} passed, {problems} failed, {len(skipped)} clients not run")
    return int(problems > 0 or not outcomes)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ProgramError as err:
        sys.exit(str(err))
