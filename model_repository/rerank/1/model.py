"""Triton entry point of the rerank model; everything else is in services.rerank_worker."""

from services.rerank_worker.adapter import open_adapter


class TritonPythonModel:
    def initialize(self, _args):
        self._adapter = open_adapter()

    def execute(self, requests):
        return self._adapter.execute(requests)

    def finalize(self):
        self._adapter.close()
