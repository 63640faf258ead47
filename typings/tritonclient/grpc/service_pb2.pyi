"""The messages of inference.GRPCInferenceService that this project uses; tritonclient ships none of their types."""

from collections.abc import Iterable, Mapping, MutableSequence

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import MessageMap
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor

class InferParameter(Message):
    bool_param: bool
    int64_param: int
    string_param: str
    def __init__(self, *, bool_param: bool = ..., int64_param: int = ..., string_param: str = ...) -> None: ...

class ModelInferRequest(Message):
    class InferInputTensor(Message):
        name: str
        datatype: str
        shape: MutableSequence[int]
        def __init__(self, *, name: str = ..., datatype: str = ..., shape: Iterable[int] = ...) -> None: ...

    model_name: str
    id: str
    @property
    def parameters(self) -> MessageMap[str, InferParameter]: ...
    @property
    def inputs(self) -> MutableSequence[InferInputTensor]: ...
    @property
    def raw_input_contents(self) -> MutableSequence[bytes]: ...
    def __init__(
        self,
        *,
        model_name: str = ...,
        id: str = ...,
        parameters: Mapping[str, InferParameter] = ...,
        inputs: Iterable[InferInputTensor] = ...,
        raw_input_contents: Iterable[bytes] = ...,
    ) -> None: ...

class ModelInferResponse(Message):
    class InferOutputTensor(Message):
        name: str
        datatype: str
        shape: MutableSequence[int]
        def __init__(self, *, name: str = ..., datatype: str = ..., shape: Iterable[int] = ...) -> None: ...

    model_name: str
    id: str
    @property
    def parameters(self) -> MessageMap[str, InferParameter]: ...
    @property
    def outputs(self) -> MutableSequence[InferOutputTensor]: ...
    @property
    def raw_output_contents(self) -> MutableSequence[bytes]: ...
    def __init__(
        self,
        *,
        model_name: str = ...,
        id: str = ...,
        parameters: Mapping[str, InferParameter] = ...,
        outputs: Iterable[InferOutputTensor] = ...,
        raw_output_contents: Iterable[bytes] = ...,
    ) -> None: ...

class ModelStreamInferResponse(Message):
    error_message: str
    @property
    def infer_response(self) -> ModelInferResponse: ...
    def __init__(self, *, error_message: str = ..., infer_response: ModelInferResponse = ...) -> None: ...
