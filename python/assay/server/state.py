"""What handlers of one server share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assay.server.auth import KeyRing
    from assay.server.core_offers import CoreOffers
    from assay.server.lifecycle import Lifecycle
    from assay.server.metrics import Metrics
    from assay.server.runner import Runner
    from assay.server.served import ModelTable
    from assay.server.settings import ServerSettings
    from assay.server.spare_memory import SpareMemory
    from assay.server.tracing import Tracing


@dataclass(frozen=True, slots=True)
class ServerState:
    """Made once by `create_app`, passed to every handler."""

    settings: ServerSettings
    models: ModelTable
    runner: Runner
    metrics: Metrics
    lifecycle: Lifecycle
    offers: CoreOffers
    spare_memory: SpareMemory
    keys: KeyRing
    tracing: Tracing
