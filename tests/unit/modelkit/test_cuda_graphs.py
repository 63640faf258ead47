"""What is decided around CUDA graphs, with a stand-in that runs the recorded function again at each replay.

The recording itself, and the kernels, have never run here: there is no GPU.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from modelkit.cuda_graphs import GraphedDecoder
from modelkit.flash import FlashAttention
from modelkit.paged import PagedDecoder, Segment, Step
from tests.fakes import flash_attn
from tests.fixtures.tiny_decoder import tiny_decoder

NUM_BLOCKS, BLOCK_LEN = 8, 256


class FakeCapture:
    """Counts recordings and replays; a replay writes into the same output, as a graph does."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.replays = 0

    def __call__(self, compute: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        output = compute()
        self.sizes.append(len(output))

        def replay() -> None:
            self.replays += 1
            output.copy_(compute())

        return output, torch.inference_mode()(replay)


def flash_decoder() -> PagedDecoder:
    attention = partial(FlashAttention, kernels=flash_attn)
    return PagedDecoder(tiny_decoder(), num_blocks=NUM_BLOCKS + 1, block_len=BLOCK_LEN, attention=attention)


def graphed(capture: FakeCapture, *, max_batch: int = 6) -> GraphedDecoder:
    return GraphedDecoder(flash_decoder(), capture, scratch_block=NUM_BLOCKS, max_batch=max_batch, max_blocks=2)


def prefill() -> Step:
    return Step.build([Segment([index + 1] * (3 + index), 0, [index]) for index in range(5)])


def decode(rounds: int, indices: range) -> Step:
    return Step.build([Segment([50 + index], 3 + index + rounds, [index]) for index in indices])


def assert_equal(fast: Tensor, slow: Tensor) -> None:
    assert (fast - slow).abs().max() < 1e-5  # a product of more rows may round otherwise


def test_a_graph_is_recorded_for_each_power_of_two_up_to_the_largest_batch() -> None:
    capture = FakeCapture()
    graphed(capture, max_batch=6)
    assert capture.sizes == [6, 4, 2, 1]


def test_decode_steps_of_shrinking_batches_give_the_logits_of_the_plain_model() -> None:
    capture = FakeCapture()
    fast, slow = graphed(capture), flash_decoder()
    fast.forward(prefill())
    slow.forward(prefill())
    assert capture.replays == 0
    for rounds, indices in enumerate([range(5), range(3), range(3), range(1, 2)]):
        step = decode(rounds, indices)
        assert_equal(fast.forward(step), slow.forward(step))
    assert capture.replays == 4


def test_places_of_a_graph_that_nobody_takes_leave_every_block_alone() -> None:
    fast, slow = graphed(FakeCapture()), flash_decoder()
    for model in (fast, slow):
        model.forward(prefill())
        model.forward(decode(0, range(4)))  # leaves the block tables of four in the graph for four
        model.forward(decode(1, range(3)))
    for index, start in [(0, 5), (1, 6), (2, 7), (3, 7), (4, 7)]:
        step = Step.build([Segment([9, 8], start, [index])])  # reads all that was kept
        assert_equal(fast.forward(step), slow.forward(step))


def test_steps_that_no_graph_holds_run_as_before() -> None:
    capture = FakeCapture()
    model = graphed(capture, max_batch=2)
    model.forward(prefill())
    model.forward(decode(0, range(5)))
    model.forward(Step.build([Segment([1], 600, [0, 1, 2])]))
    assert capture.replays == 0


def test_only_the_rows_asked_for_come_back() -> None:
    model = graphed(FakeCapture())
    model.forward(prefill())
    silent = Step.build([Segment([50], 3, [0]), Segment([51], 4, [1], num_logits=0), Segment([52], 5, [2])])
    assert len(model.forward(silent)) == 2
