"""Logs on standard error: lines for people or JSON for machines, and never a text of a request."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any


class TextFormatter(logging.Formatter):
    """`time level logger message key=value ...`"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback where there is one."""
        line = super().format(record)
        facts = getattr(record, "facts", None)
        return line if not facts else line + " " + " ".join(f"{key}={_word(value)}" for key, value in facts.items())


def _word(value: Any) -> str:
    """A value as one word: what a client chose must not look like another fact, or like another line."""
    text = str(value)
    return text if text.isprintable() and not set(text) & {" ", '"', "="} else json.dumps(text)


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's time, level, logger, message, facts and traceback."""
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def set_up_logs(log_format: str, level: str) -> None:
    """Send the package's and the web server's logs to standard error; the program's entry calls it once."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    for name in ("assay", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())
