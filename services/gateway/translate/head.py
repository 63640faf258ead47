"""Holds what every body of one answer repeats; the caller made it, so translation needs no clock and no chance."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Head:
    """id: chatcmpl-… or cmpl-…. created_s: Unix seconds. seed: the one in force, as uint64. tenant: see Call."""

    id: str
    created_s: int
    model: str
    seed: int
    version: str
    request_id: str
    tenant: str = ""

    @property
    def fingerprint(self) -> str:
        """OpenAI's system_fingerprint: with it and the same request, the same answer can be asked for again."""
        return f"zhinao-mesh-{self.version}-seed-{self.seed}"
