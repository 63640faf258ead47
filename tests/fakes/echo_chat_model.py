"""A stand-in for the chat worker's model.py that speaks the wire: answers a ping, and echoes a prompt word by word."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils

from zhinao.chat.v1 import chat_pb2

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for content in self._answers(request):
                tensor = pb_utils.Tensor("response", np.array([content], dtype=np.object_))
                sender.send(pb_utils.InferenceResponse([tensor]))
            sender.send(flags=FINAL)

    def _answers(self, request):
        if json.loads(request.parameters()).get("operation") == "ping":
            return [b""]
        body = pb_utils.get_input_tensor_by_name(request, "request").as_numpy()[0]
        asked = chat_pb2.GenerateRequest.FromString(body)
        words = asked.text or asked.chat.messages[-1].content
        pieces = [chat_pb2.GenerateResponse(text=word, model=asked.model) for word in words.split()]
        pieces[-1].finish_reason = chat_pb2.FINISH_REASON_STOP
        return [piece.SerializeToString() for piece in pieces]
