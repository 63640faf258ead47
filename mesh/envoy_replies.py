"""Decides what Envoy says at the edge where no gateway does, over REST and gRPC, in the words of the one table."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mesh.plan import EdgeLimits
from meshkit.errors import MeshError, Reason
from meshkit.rich_status import rich_status

# Envoy looks at its gateways twice a second and at its memory once, and lets in as many again each second.
_LOOK_AGAIN_S: Final = 1


@dataclass(frozen=True, slots=True)
class Reply:
    """flags: Envoy's own that mean this failure; none: what Envoy answers with the same HTTP status means it."""

    flags: Sequence[str]
    error: MeshError

    @property
    def status_details(self) -> str:
        """The trailer grpc-status-details-bin."""
        status = rich_status(self.error, message=self.error.message, wait_s=self.error.retry_after_s)
        return base64.b64encode(status.SerializeToString()).decode()


def replies(limits: EdgeLimits) -> list[Reply]:
    """All of them; the first one that fits is said. No message has a `%`, with which Envoy's own words would begin."""

    def later(reason: Reason, message: str) -> MeshError:
        return MeshError(reason, message, retry_after_s=_LOOK_AGAIN_S)

    too_large = f"The body is larger than the limit of {limits.max_body_bytes} bytes."
    return [
        Reply(
            ("UH", "UF", "LH"),
            later(Reason.NOT_READY, "The mesh is not ready: no gateway answers. Try again in a moment."),
        ),
        Reply(("UO",), later(Reason.QUEUE_FULL, "Too many requests at once. Try again in a moment.")),
        Reply(("UC", "UR", "UPE"), MeshError(Reason.UPSTREAM_LOST, "The gateway was lost before it answered.")),
        Reply(("SI", "UT", "DT"), MeshError(Reason.DEADLINE, "Nothing was heard for too long.")),
        Reply((), later(Reason.QUEUE_FULL, "Too much is in progress at once. Try again in a moment.")),
        Reply((), later(Reason.TENANT_LIMIT, "More requests came than the edge takes in a second, of all clients.")),
        Reply((), MeshError(Reason.TOO_LARGE, too_large)),
        Reply((), MeshError(Reason.ROUTE_NOT_FOUND, "There is nothing here for clients.")),
    ]
