"""`python -m assay.server` is `assay serve`."""

from __future__ import annotations

import sys

from assay.server.launch import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], program="python -m assay.server"))
