"""`zhinao plan`: the family's published figures from config.json alone, and what follows of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from modelkit.capacity import BLOCK_LEN, GPUS, MAX_RUNNING, Load, fit, pace
from modelkit.config import DecoderConfig, parse_config
from modelkit.flash import FLASH_BLOCK_LEN
from services.chat_worker.settings import ChatSettings
from tests.unit.modelkit.test_config import PUBLISHED, published_config

WINDOW = 360_000


def variant(name: str) -> dict[str, Any]:
    return published_config(next(each for each in PUBLISHED["variants"] if each["name"] == name))


def config(name: str) -> DecoderConfig:
    return parse_config(variant(name))


def planned(tmp_path: Path, name: str, *words: str) -> tuple[int, dict[str, Any], str]:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(variant(name)))
    result = CliRunner().invoke(app, ["plan", "--model", str(file), "--json", *words])
    return result.exit_code, json.loads(result.stdout or "{}"), result.stderr


@pytest.mark.parametrize(
    ("name", "bytes_per_token", "window_gb", "weights_gb"),
    [
        ("360Zhinao-7B-Chat-360K", 524_288, 188.7, 15.55),
        ("360Zhinao2-7B-Chat-360K", 131_072, 47.2, 15.55),
        ("360Zhinao-1.8B-Reranking", 196_608, 70.8, 3.76),
    ],
)
def test_bytes_are_the_published_ones(name: str, bytes_per_token: int, window_gb: float, weights_gb: float) -> None:
    found = fit(config(name), GPUS["h100"], WINDOW)

    assert found.kv_bytes_per_token == bytes_per_token
    assert found.window_bytes / 1e9 == pytest.approx(window_gb, abs=0.05)
    assert found.weights_bytes / 1e9 == pytest.approx(weights_gb, abs=0.006)


def test_second_generation_fits_its_window_once_on_an_h100_and_the_first_does_not(tmp_path: Path) -> None:
    status, found, _ = planned(tmp_path, "360Zhinao2-7B-Chat-360K", "--context", "360000", "--gpu", "h100")
    assert (status, found["num_windows"]) == (0, 1)
    assert found["settings"] == {
        "CHAT_MAX_MODEL_LEN": "360000",
        "CHAT_KV_WINDOWS": "2",  # one and a part of another
        "CHAT_KV_MEMORY_SHARE": "0.9",
    }

    status, found, told = planned(tmp_path, "360Zhinao-7B-Chat-360K", "--context", "360000", "--gpu", "h100")
    assert (status, found["num_windows"], found["pace"]) == (1, 0, None)
    assert "188743680000 bytes" in told
    assert f"longest window that fits is {found['longest_window']} tokens" in told

    longest = str(found["longest_window"])
    status, found, _ = planned(tmp_path, "360Zhinao-7B-Chat-360K", "--context", longest, "--gpu", "h100")
    assert (status, found["num_windows"]) == (0, 1)


def test_twice_the_load_takes_twice_the_workers() -> None:
    model, gpu = config("360Zhinao2-7B-Chat-4K"), GPUS["h100"]
    few, many = (pace(model, gpu, fit(model, gpu, 4096), Load(rps, 1000, 300), 0.5) for rps in (100, 200))

    assert few.requests_per_s == many.requests_per_s
    assert many.num_workers == pytest.approx(2 * few.num_workers, abs=1)


def test_one_answer_alone_is_bound_by_reading_the_weights() -> None:
    model, gpu = config("360Zhinao-7B-Chat-360K"), GPUS["a100-40gb"]
    fitting = fit(model, gpu, 40_000)
    found = pace(model, gpu, fitting, Load(1, 39_000, 1000), 1.0)

    assert found.num_running == fitting.num_windows == 1
    assert found.step_s == pytest.approx((fitting.weights_bytes + 39_500 * 524_288) / 1555e9)


def test_a_prompt_is_bound_by_two_operations_a_parameter_and_attention_that_grows_by_its_square() -> None:
    model, gpu = config("360Zhinao2-7B-Chat-360K"), GPUS["h100"]
    fitting = fit(model, gpu, WINDOW)
    short, long = (pace(model, gpu, fitting, Load(1, tokens, 1), 1.0).prefill_s for tokens in (1, 200_000))

    linear = 2 * (7_774_605_312 - 158_464 * 4096)
    assert short * 989e12 == pytest.approx(linear, rel=1e-4)
    assert long * 989e12 == pytest.approx(200_000 * linear + 2 * 32 * 4096 * 200_000**2)


def test_numbers_are_those_of_the_worker_and_its_kernels() -> None:
    assert ChatSettings.model_fields["max_running"].default == MAX_RUNNING
    assert FLASH_BLOCK_LEN == BLOCK_LEN


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--gpu", "h1000"], "--gpu h1000: expected one of a10,"),
        (["--gpu", "h100", "--context", "4097"], "--context is 4097, but the model was trained for a window of 4096"),
        (["--gpu", "h100", "--prompt-tokens", "4000"], "prompt and answer are 4300 tokens, more than the window of"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_both_numbers(tmp_path: Path, words: list[str], told: str) -> None:
    status, _, said = planned(tmp_path, "360Zhinao2-7B-Chat-4K", *words)

    assert status == 2
    assert told in said


def test_table_says_how_each_figure_comes_about(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(variant("360Zhinao2-7B-Chat-4K")))
    result = CliRunner().invoke(app, ["plan", "--model", str(tmp_path), "--gpu", "h100"])

    assert result.exit_code == 0, result.stderr
    assert "7,774,605,312 parameters × 2 bytes" in result.stdout
    assert "2 × 32 layers × 8 KV heads × 128 × 2 bytes" in result.stdout
    assert "CHAT_MAX_MODEL_LEN=4096" in result.stdout
