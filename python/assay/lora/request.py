"""Which adapter a prompt is for, under vLLM's name: programs that import it run, until one asks for an adapter."""

from __future__ import annotations

from dataclasses import dataclass

from assay.errors import ValidationError


@dataclass(frozen=True, eq=False, slots=True)
class LoRARequest:
    """An adapter by name, by a number from 1 and by the folder it lies in. Two with one name are equal.

    base_model_name: the model it was trained on. load_inplace: read it again where it is loaded already.
    is_3d_lora_weight: the weights of all experts lie in one tensor. Raises ValidationError.
    """

    lora_name: str
    lora_int_id: int
    lora_path: str
    base_model_name: str | None = None
    load_inplace: bool = False
    is_3d_lora_weight: bool = False

    def __post_init__(self) -> None:
        if self.lora_int_id < 1:
            raise ValidationError(f"id must be > 0, got {self.lora_int_id}")
        if not self.lora_path:
            raise ValidationError("lora_path cannot be empty")

    @property
    def adapter_id(self) -> int:
        """The same as lora_int_id."""
        return self.lora_int_id

    @property
    def name(self) -> str:
        """The same as lora_name."""
        return self.lora_name

    @property
    def path(self) -> str:
        """The same as lora_path."""
        return self.lora_path

    def __eq__(self, other: object) -> bool:
        return self.lora_name == other.lora_name if isinstance(other, LoRARequest) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.lora_name)
