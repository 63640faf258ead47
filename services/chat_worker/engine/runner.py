"""Computes one step of the model; decides nothing about who runs and what is chosen."""

from torch import Tensor

from modelkit.paged import PagedModel, Segment, Step
from services.chat_worker.engine.scheduler import Chunk, Plan


class ModelRunner:
    """Turns a plan into a step, has the model compute it, and returns the logits that are needed."""

    def __init__(self, model: PagedModel) -> None:
        self._model = model

    def run(self, plan: Plan) -> Tensor:
        """Compute the chunks together. Returns (logits asked for, vocab) fp32, in the chunks' order."""
        for source, target in plan.copies:
            self._model.copy_block(source, target)
        return self._model.forward(Step.build([_segment(chunk) for chunk in plan.chunks]))


def _segment(chunk: Chunk) -> Segment:
    start = chunk.sequence.num_computed
    token_ids = [*chunk.sequence.token_ids[start : start + chunk.num_tokens], *chunk.draft]
    return Segment(token_ids, start, chunk.sequence.block_ids, num_logits=chunk.num_logits)
