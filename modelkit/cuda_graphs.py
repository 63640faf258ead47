"""Replays decode steps as CUDA graphs, one per batch size; knows neither attention nor layers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modelkit.paged import PagedDecoder, Step

# Records what a function launches: its output, whose memory every replay writes anew, and the replay.
Capture = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]


def cuda_capture() -> Capture:
    """A Capture by torch.cuda.graph; its graphs share one memory pool, so one output is read before the next replay."""
    pool = torch.cuda.graph_pool_handle()

    def capture(compute: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute()  # libraries set themselves up at a first run, which must not be recorded
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            output = compute()
        return output, graph.replay

    return capture


@dataclass(frozen=True, slots=True)
class _Graph:
    """A recorded decode step of a fixed number of sequences, and the memory it reads and writes."""

    step: Step
    logits: Tensor  # (sequences, vocab_size)
    replay: Callable[[], None]

    def run(self, step: Step, scratch_block: int) -> Tensor:
        """Logits of a step of as many sequences or fewer; those that are lacking write into the scratch block."""
        size, width = step.block_tables.shape
        fixed = self.step
        fixed.token_ids[:size].copy_(step.token_ids)
        fixed.positions[:size].copy_(step.positions)
        fixed.context_lens[:size].copy_(step.context_lens)
        fixed.context_lens[size:].fill_(1)
        fixed.block_tables[:size, :width].copy_(step.block_tables)
        fixed.block_tables[size:].fill_(scratch_block)  # blocks of an earlier step may belong to others by now
        self.replay()
        return self.logits[step.rows.to(self.logits.device)]


class GraphedDecoder:
    """A PagedModel that launches a decode step as one graph instead of kernel by kernel.

    Steps with prefill, and those beyond max_batch sequences or max_blocks blocks each, run as before. The model's pool
    needs one block, scratch_block, that no sequence ever holds. Sizes are powers of two up to max_batch, and itself.
    """

    def __init__(
        self, model: PagedDecoder, capture: Capture, *, scratch_block: int, max_batch: int, max_blocks: int
    ) -> None:
        self._model = model
        self._scratch_block = scratch_block
        self._max_batch, self._max_blocks = max_batch, max_blocks
        sizes = {min(1 << power, max_batch) for power in range(max_batch.bit_length() + 1)}
        # the largest first: the others find room in the memory it took
        self._graphs = {size: self._record(capture, size) for size in sorted(sizes, reverse=True)}

    def forward(self, step: Step) -> Tensor:
        """See PagedModel."""
        size, width = step.block_tables.shape
        if len(step.token_ids) > size or size > self._max_batch or width > self._max_blocks:
            return self._model.forward(step)
        smallest = min(fitting for fitting in self._graphs if fitting >= size)
        return self._graphs[smallest].run(step, self._scratch_block).cpu()

    def copy_block(self, source: int, target: int) -> None:
        """See PagedModel."""
        self._model.copy_block(source, target)

    def _record(self, capture: Capture, size: int) -> _Graph:
        step = Step(
            token_ids=torch.zeros(size, dtype=torch.int64),
            positions=torch.zeros(size, dtype=torch.int64),
            num_new=torch.ones(size, dtype=torch.int32),
            context_lens=torch.ones(size, dtype=torch.int32),
            block_tables=torch.full((size, self._max_blocks), self._scratch_block, dtype=torch.int32),
            rows=torch.arange(size),
        ).to(self._model.device)
        return _Graph(step, *capture(lambda: self._model.compute(step)))
