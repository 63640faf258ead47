"""Which device and which attention are chosen; the GPUs here are only said to exist."""

import sys
from types import SimpleNamespace

import pytest
import torch

from modelkit.devices import best_device, fitting_block_len, free_bytes, paged_model
from modelkit.flash import find_flash_kernels
from modelkit.paged import PagedDecoder, Segment, Step
from tests.fakes import flash_attn
from tests.fixtures.tiny_decoder import tiny_decoder

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.fixture
def capability(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    gpu = SimpleNamespace(version=(8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: gpu.version)
    monkeypatch.setitem(sys.modules, "flash_attn", flash_attn)
    return gpu


@pytest.mark.usefixtures("capability")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_an_ampere_gpu_runs_on_flash_attn(dtype: torch.dtype) -> None:
    assert find_flash_kernels(GPU, dtype) is flash_attn


@pytest.mark.parametrize(
    ("device", "dtype", "version"),
    [(CPU, torch.bfloat16, (8, 0)), (GPU, torch.float32, (8, 0)), (GPU, torch.float16, (7, 5))],
    ids=["a CPU", "fp32", "a GPU before Ampere"],
)
def test_what_flash_attn_cannot_run_falls_back_to_torch(
    capability: SimpleNamespace, device: torch.device, dtype: torch.dtype, version: tuple[int, int]
) -> None:
    capability.version = version
    assert find_flash_kernels(device, dtype) is None


@pytest.mark.usefixtures("capability")
def test_a_missing_flash_attn_is_said_once_and_falls_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert find_flash_kernels(GPU, torch.float16) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(
    ("asked", "device", "given"), [(32, CPU, 32), (32, GPU, 256), (256, GPU, 256), (300, GPU, 512)]
)
def test_blocks_have_the_length_that_the_kernels_take(asked: int, device: torch.device, given: int) -> None:
    assert fitting_block_len(asked, device) == given


def test_without_a_gpu_the_cpu_is_chosen_and_its_memory_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert best_device() == CPU
    assert free_bytes(CPU) > 0


def test_with_a_gpu_the_gpu_is_chosen_and_its_memory_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (7, 9))
    assert (best_device(), free_bytes(best_device())) == (GPU, 7)


def test_the_model_of_a_cpu_computes_steps() -> None:
    model = paged_model(tiny_decoder(), num_blocks=4, block_len=16, max_batch=2, max_context=32)
    assert isinstance(model, PagedDecoder)
    assert model.forward(Step.build([Segment([1, 2], 0, [3])])).shape == (1, 96)
