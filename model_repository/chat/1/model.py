"""Triton entry point of the chat model; everything else is in services.chat_worker."""

from services.chat_worker.adapter import ChatAdapter


class TritonPythonModel:
    def initialize(self, args):
        self._adapter = ChatAdapter.from_triton(args)

    def execute(self, requests):
        return self._adapter.execute(requests)

    def finalize(self):
        self._adapter.close()
