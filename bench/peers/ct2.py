"""CTranslate2: one static batch per job."""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.peers.protocol import Job, Outcome, serve


class CTranslate2:
    """One converted model; it wants its prompts as the vocabulary's words."""

    def __init__(self, path: str, num_threads: int, compute_type: str) -> None:
        self._lib: Any = import_module("ctranslate2")  # here: it exists in this peer's own environment only
        self._generator = self._lib.Generator(
            path, device="cpu", compute_type=compute_type, intra_threads=num_threads, inter_threads=1
        )
        self._words: list[str] = json.loads((Path(path) / "vocabulary.json").read_text())

    def about(self) -> dict[str, str]:
        """Version, and the arithmetic the library supports on this processor."""
        supported = " ".join(sorted(self._lib.get_supported_compute_types("cpu")))
        return {"version": f"ctranslate2 {self._lib.__version__}", "features": supported}

    def prepare(self, job: Job) -> Callable[[], Outcome]:
        """Spell the prompts."""
        rows = [[self._words[token_id] for token_id in prompt] for prompt in job.prompts]

        def run() -> Outcome:
            answers = self._generator.generate_batch(
                rows,
                max_length=job.max_tokens,
                min_length=job.max_tokens,
                include_prompt_in_result=False,
                sampling_topk=1,
                max_batch_size=0,
                end_token=[],
            )
            return Outcome(sum(len(answer.sequences_ids[0]) for answer in answers))

        return run


def main() -> None:
    """Serve a converted folder with that many threads and that compute type."""
    path, num_threads, compute_type = sys.argv[1:]
    engine = CTranslate2(path, int(num_threads), compute_type)
    serve(engine.prepare, engine.about())


if __name__ == "__main__":
    main()
