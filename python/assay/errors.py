"""The exceptions of the public API.

Everything the package raises on purpose derives from `AssayError`; a class also derives from the built-in exception
that callers of older code expect (ValueError for wrong values, ImportError for a missing extra).
"""

from __future__ import annotations

from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)


class AssayError(Exception):
    """Base class of every error this package raises on purpose."""


class ValidationError(AssayError, ValueError):
    """A request that cannot be served as asked.

    `parameter` names the offending argument and `value` what came; `str()` appends whichever of them is set.
    """

    def __init__(self, message: str, parameter: str | None = None, value: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.parameter = parameter
        self.value = value

    def __str__(self) -> str:
        extras = []
        if self.parameter is not None:
            extras.append(f"parameter={self.parameter}")
        if self.value is not None:
            extras.append(f"value={self.value}")
        return f"{self.message} ({', '.join(extras)})" if extras else self.message

    def __reduce__(self) -> tuple[type[ValidationError], tuple[str, str | None, Any]]:
        return type(self), (self.message, self.parameter, self.value)


class ConfigError(AssayError, ValueError):
    """A setting of the engine or of a model folder that is wrong or cannot be honoured."""


class DeviceError(ConfigError):
    """A device that was asked for and cannot be used, or has too little memory for the model."""


class DeviceFaultError(AssayError, RuntimeError):
    """The GPU reported an error that nothing after it survives, such as an illegal access: the engine stops."""


class UnsupportedModelError(AssayError, ValueError):
    """A model whose architecture, head or file layout is not supported."""


class WeightsError(AssayError, ValueError):
    """A checkpoint with missing, unexpected or wrongly shaped tensors."""


class SelfCheckError(AssayError, RuntimeError):
    """The model loaded but its answers to the built-in inputs cannot be right."""


class NonFiniteError(AssayError, ValueError):
    """The model's result for one input contains NaN or infinity."""


class EngineDeadError(AssayError, RuntimeError):
    """The engine is closed, or its compute thread has stopped."""


class OverloadedError(AssayError, RuntimeError):
    """The engine refuses a job because too much work waits; `retry_after_s` is when it expects room, in seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[OverloadedError], tuple[str, float]]:
        return type(self), (self.message, self.retry_after_s)


class EngineDrainingError(OverloadedError):
    """The engine finishes what it has and takes no new work."""


class DeadlineExceededError(AssayError, TimeoutError):
    """A job was not finished by its deadline; what remained of it was dropped."""


class BatchMemoryError(AssayError, MemoryError):
    """There was not enough memory for one batch; the engine goes on with the next."""


class MissingExtra(AssayError, ImportError):
    """A part of the package needs an optional dependency; the message says which extra to install."""


def without_traceback(err: E) -> E:
    """An error that somebody will keep, without the frames it came through, nor those of what caused it.

    Frames hold the texts of a request, and lead to whoever keeps the error: such a ring stays until a garbage
    collection, which comes after many objects and not after many bytes.
    """
    link: BaseException | None = err
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return err
