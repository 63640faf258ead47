"""OpenVINO GenAI: one stream through its LLMPipeline, several through its continuous batching."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from bench.peers.protocol import Job, Outcome, serve

_STEP_TOKENS = 512
_MAX_STREAMS = 64
_CACHE_GIB = 2


class OpenVino:
    """One model, loaded once for each of the two pipelines."""

    def __init__(self, path: str, num_threads: int, precision: str) -> None:
        # here: they exist in this peer's own environment only
        self._ov: Any = import_module("openvino")
        self._genai: Any = import_module("openvino_genai")
        options: dict[str, str | int] = {"INFERENCE_NUM_THREADS": num_threads}
        if precision != "default":
            options["INFERENCE_PRECISION_HINT"] = precision
        self._one = self._genai.LLMPipeline(path, "CPU", **options)
        scheduler = self._genai.SchedulerConfig()
        scheduler.cache_size = _CACHE_GIB
        scheduler.max_num_batched_tokens = _STEP_TOKENS
        scheduler.max_num_seqs = _MAX_STREAMS
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = False
        self._many = self._genai.ContinuousBatchingPipeline(path, scheduler, "CPU", options)

    def about(self) -> dict[str, str]:
        """Version, and what the library says the processor can do well."""
        able = self._ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return {"version": f"openvino-genai {self._genai.__version__}", "features": " ".join(able)}

    def prepare(self, job: Job) -> Callable[[], Outcome]:
        """Lay the prompts out as the pipeline wants them."""
        config = self._genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = job.max_tokens
        config.ignore_eos = True
        config.do_sample = False
        config.apply_chat_template = False
        tensors = [self._ov.Tensor(np.array([prompt], dtype=np.int64)) for prompt in job.prompts]
        if len(tensors) == 1:
            mask = self._ov.Tensor(np.ones((1, len(job.prompts[0])), dtype=np.int64))
            inputs = self._genai.TokenizedInputs(tensors[0], mask)
            return lambda: Outcome(len(self._one.generate(inputs, config).tokens[0]))
        configs = [config] * len(tensors)

        def run() -> Outcome:
            answers = self._many.generate(tensors, configs)
            return Outcome(sum(len(answer.m_generation_ids[0]) for answer in answers))

        return run


def main() -> None:
    """Serve a GGUF file with that many threads and that inference precision."""
    path, num_threads, precision = sys.argv[1:]
    engine = OpenVino(path, int(num_threads), precision)
    serve(engine.prepare, engine.about())


if __name__ == "__main__":
    main()
