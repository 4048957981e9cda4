"""schemathesis over our own OpenAPI page: generated requests, valid and not; replies must be what the page says.

python fuzz/schemathesis_server.py [--max-examples 200] [--seed 0]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "clients"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from environments import Environment, InstallError
from live_server import exit_on_sigterm
from tiny_server import BUILD, tiny_server

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


def main() -> int:
    """schemathesis' own exit status; 1 as well if the server is not there any more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-examples", type=int, default=200, help="per operation")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    exit_on_sigterm()
    environment = Environment("schemathesis")
    try:
        environment.prepare()
    except InstallError as err:
        print(f"NOT RUN: schemathesis could not be installed: {err}")
        return 1
    with tiny_server() as server:
        command = [
            str(environment.folder / "bin" / "schemathesis"),
            *("run", f"http://127.0.0.1:{server.port}/openapi.json"),
            *("--phases", "examples,coverage,fuzzing", "--checks", ",".join(CHECKS), "--continue-on-failure"),
            *("--max-examples", str(args.max_examples), "--seed", str(args.seed), "--request-timeout", "60"),
        ]
        status = subprocess.run(command, cwd=BUILD, check=False).returncode
        if not server.is_running:
            print(f"the server died:\n{server.log_tail()}")
            return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
