"""Translates lines of the usage table into the answer of /v1/usage."""

from collections.abc import Mapping

from services.gateway.openai.key_usage import DayUsage, KeyUsage
from services.gateway.tenancy.keys import Key
from services.gateway.tenancy.uses import Slot, Use


def to_key_usage(key: Key, uses: Mapping[Slot, Use]) -> KeyUsage:
    """The answer, in the order of the lines."""
    days = [to_day_usage(slot, use) for slot, use in uses.items()]
    return {"object": "list", "key": key.name, "tenant": key.tenant, "data": days}


def to_day_usage(slot: Slot, use: Use) -> DayUsage:
    """One line."""
    return {
        "day": slot.day.isoformat(),
        "model": slot.model,
        "requests": use.requests,
        "prompt_tokens": use.prompt_tokens,
        "completion_tokens": use.completion_tokens,
        "total_tokens": use.tokens,
    }
