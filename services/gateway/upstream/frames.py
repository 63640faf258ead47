"""Decides how one of our messages is laid in Triton's: one BYTES tensor of one element; opens no connection."""

import struct
from typing import Final

from tritonclient.grpc.service_pb2 import InferParameter, ModelInferRequest, ModelInferResponse

from meshkit.wire import OPERATION_PARAMETER, REQUEST_TENSOR, RESPONSE_TENSOR, Operation

_LENGTH: Final = struct.Struct("<I")  # Triton puts it before every BYTES element
_ASK_FOR_FINAL: Final = "triton_enable_empty_final_response"
_IS_FINAL: Final = "triton_final_response"


def pack_request(triton_model: str, payload: bytes, *, request_id: str, operation: Operation) -> ModelInferRequest:
    """Wrap a serialised zhinao request for the Triton model of that name."""
    tensor = ModelInferRequest.InferInputTensor(name=REQUEST_TENSOR, datatype="BYTES", shape=[1])
    return ModelInferRequest(
        model_name=triton_model,
        id=request_id,
        parameters={
            OPERATION_PARAMETER: InferParameter(string_param=operation),
            _ASK_FOR_FINAL: InferParameter(bool_param=True),
        },
        inputs=[tensor],
        raw_input_contents=[_LENGTH.pack(len(payload)) + payload],
    )


def unpack_response(response: ModelInferResponse) -> bytes | None:
    """The serialised zhinao response inside; None for the empty frame that only says the answer is over."""
    for output, content in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.name == RESPONSE_TENSOR:
            return content[_LENGTH.size :]
    return None


def is_final(response: ModelInferResponse) -> bool:
    """Whether no more frames of this answer follow."""
    return response.parameters[_IS_FINAL].bool_param if _IS_FINAL in response.parameters else False
