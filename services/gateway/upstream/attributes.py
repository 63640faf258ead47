"""Decides what a trace tells of how a generation was asked, in OpenTelemetry's words; never a text."""

from typing import Final

from opentelemetry.util.types import AttributeValue

from meshkit import telemetry
from zhinao.chat.v1.chat_pb2 import GenerateRequest

_FLOATS: Final = ("temperature", "top_p", "presence_penalty", "frequency_penalty")


def question_attributes(request: GenerateRequest) -> dict[str, AttributeValue]:
    """What the client set, and the seed in force; what it left to the model's own defaults is not known here."""
    sampling, stop = request.sampling, request.stop
    attributes: dict[str, AttributeValue] = {
        f"{telemetry.REQUEST}.{name}": round(getattr(sampling, name), 6)  # of 32 bits
        for name in _FLOATS
        if sampling.HasField(name)
    }
    if sampling.HasField("top_k"):
        attributes[f"{telemetry.REQUEST}.top_k"] = sampling.top_k
    if sampling.HasField("seed"):
        attributes[f"{telemetry.REQUEST}.seed"] = sampling.seed - (sampling.seed >> 63 << 64)  # signed
    if stop.HasField("max_tokens"):
        attributes[f"{telemetry.REQUEST}.max_tokens"] = stop.max_tokens
    if request.HasField("n"):
        attributes[f"{telemetry.REQUEST}.choice.count"] = request.n
    return attributes
