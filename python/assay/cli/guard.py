"""Every command ends in an exit code and at most one line on stderr, never in a traceback."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec

import typer

from assay.errors import AssayError

if TYPE_CHECKING:
    from assay.outputs import PoolingRequestOutput

FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130

P = ParamSpec("P")


class UsageError(Exception):
    """The command line asks for something that makes no sense; exit code 2."""


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Print one line on stderr and leave with `code`."""
    print(f"assay: {message}", file=sys.stderr)
    raise typer.Exit(code)


def fail_for(outputs: Sequence[PoolingRequestOutput[Any]]) -> None:
    """Leave with an error that names the inputs without a result, where there are any."""
    errors = {index: output.error.message for index, output in enumerate(outputs) if output.error is not None}
    fail_for_errors(errors, len(outputs))


def fail_for_errors(errors: Mapping[int, str], count: int) -> None:
    """The same for callers that keep no outputs: the message of each of `count` inputs without a result, by index."""
    if errors:
        index, message = next(iter(errors.items()))
        fail(f"{len(errors)} of {count} inputs have no result; the first is input {index + 1}: {message}")


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Turn exceptions into a message and an exit code; ASSAY_TRACEBACK=1 lets them through instead."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except UsageError as err:
            fail(str(err), WRONG_USE)
        except KeyboardInterrupt:
            fail("interrupted", INTERRUPTED)
        except BrokenPipeError:  # the reader of our output has gone, as in `assay ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(FAILED) from None
        except Exception as err:
            if os.environ.get("ASSAY_TRACEBACK") == "1":
                raise
            fail(_describe(err))

    return run


def _describe(err: Exception) -> str:
    text = " ".join([str(err).strip(), *getattr(err, "__notes__", [])]).strip()
    if isinstance(err, (AssayError, ValueError, OSError, ImportError)) and text:
        return text
    return f"unexpected {type(err).__name__}: {text} (set ASSAY_TRACEBACK=1 to see where)"
