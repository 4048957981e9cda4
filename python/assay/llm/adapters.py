"""The LoRA adapters of one `LLM`: loaded when a call first names them, the least recently used ones let go."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from assay.errors import ConfigError, ValidationError
from assay.lora.request import LoRARequest

if TYPE_CHECKING:
    from assay.models.pooling_model import PoolingModel

DEFAULT_MAX_RANK: Final = 16


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """vLLM's settings of the same names; raises ConfigError.

    max_lora_rank: of an adapter's matrices. max_loras, max_cpu_loras: adapters that stay loaded, the larger of the two.
    max_lora_cls_labels: rows of an adapter's own classifier; None: as many as the model's has.
    """

    max_lora_rank: int = DEFAULT_MAX_RANK
    max_loras: int = 1
    max_cpu_loras: int | None = None
    max_lora_cls_labels: int | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
            if not is_count and not (value is None and name in ("max_cpu_loras", "max_lora_cls_labels")):
                raise ConfigError(f"{name} must be a positive integer, got {value!r}")
        if self.max_cpu_loras is not None and self.max_cpu_loras < self.max_loras:
            raise ConfigError(f"max_cpu_loras ({self.max_cpu_loras}) must be >= max_loras ({self.max_loras})")

    @property
    def max_loaded(self) -> int:
        """Adapters that stay loaded."""
        return max(self.max_loras, self.max_cpu_loras or 0)


class Adapters:
    """make: loads one, and raises ConfigError or WeightsError. Thread safe.

    An adapter in use stays until its calls are done, also where others have taken its place.
    """

    def __init__(self, make: Callable[[LoRARequest], PoolingModel], limit: int) -> None:
        self._make = make
        self._limit = limit
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._loaded: OrderedDict[tuple[str, str], PoolingModel] = OrderedDict()

    def load(self, request: LoRARequest) -> PoolingModel:
        """The adapted model, loaded now and not kept here."""
        with self._loading:
            return self._made(request)

    def _made(self, request: LoRARequest) -> PoolingModel:
        if request.is_3d_lora_weight:
            raise ConfigError(f"adapter {request.lora_name!r}: is_3d_lora_weight=True is not supported")
        return self._make(request)

    def model(self, request: LoRARequest) -> PoolingModel:
        """The adapted model, loaded now unless it is there; again where the request says load_inplace."""
        if (found := self._found(request)) is not None:
            return found
        with self._loading:
            if (found := self._found(request)) is not None:  # by another thread, which this one has waited for
                return found
            made = self._made(request)
            with self._lock:
                self._loaded[adapter_key(request)] = made
                self._loaded.move_to_end(adapter_key(request))
                while len(self._loaded) > self._limit:
                    self._loaded.popitem(last=False)
        return made

    def _found(self, request: LoRARequest) -> PoolingModel | None:
        with self._lock:
            found = None if request.load_inplace else self._loaded.get(adapter_key(request))
            if found is not None:
                self._loaded.move_to_end(adapter_key(request))
            return found

    def models(self, requests: Sequence[LoRARequest | None]) -> list[PoolingModel | None] | None:
        """The adapted model of each prompt, None for the base's; None where all are. Each is loaded once a call."""
        wanted: dict[tuple[str, str], LoRARequest] = {}
        for request in requests:
            if request is not None and (request.load_inplace or adapter_key(request) not in wanted):
                wanted[adapter_key(request)] = request
        found = {key: self.model(request) for key, request in wanted.items()}
        return [None if request is None else found[adapter_key(request)] for request in requests] if found else None


def adapter_key(request: LoRARequest) -> tuple[str, str]:
    """Two adapters may have one name; requests of one name are equal."""
    return request.lora_name, request.lora_path


def lora_requests(lora_request: Any, count: int, *, is_enabled: bool) -> list[LoRARequest | None]:
    """What a call says of adapters, one entry per prompt; raises ValidationError."""
    if lora_request is None:
        return [None] * count
    is_list = isinstance(lora_request, list | tuple)
    requests = list(lora_request) if is_list else [lora_request] * count
    if len(requests) != count:
        raise ValidationError(f"The lengths of prompts ({count}) and lora_request ({len(requests)}) must be the same.")
    for request in requests:
        if request is None:
            continue
        if not isinstance(request, LoRARequest):
            raise ValidationError(f"lora_request must be a LoRARequest, got {type(request).__name__}")
        if not is_enabled:
            raise ValidationError(f"Got lora_request {request} but LoRA is not enabled!")
    return requests
