"""The share of the machine that others used, on a pretended clock."""

from collections.abc import Iterator

import pytest

from bench import quiet


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[float]]]:
    """What the clock, the machine's counter and our processes' counter say, before and after."""
    values: dict[str, list[float]] = {"wall": [0.0, 10.0], "busy": [100.0, 100.0], "own": [50.0, 50.0]}
    monkeypatch.setattr(quiet, "perf_counter", lambda: values["wall"].pop(0))
    monkeypatch.setattr(quiet, "_busy_s", lambda: values["busy"].pop(0))
    monkeypatch.setattr(quiet, "_own_s", lambda _: values["own"].pop(0))
    monkeypatch.setattr(quiet.psutil, "cpu_count", lambda: 2)
    yield values


@pytest.mark.parametrize(
    ("busy_s", "own_s", "share"),
    [(20.0, 20.0, 0.0), (20.0, 10.0, 0.5), (5.0, 0.0, 0.25), (10.0, 10.5, 0.0)],  # the counters are not read at once
)
def test_share_of_others_leaves_out_what_we_used(
    readings: dict[str, list[float]], busy_s: float, own_s: float, share: float
) -> None:
    readings["busy"][1] += busy_s
    readings["own"][1] += own_s

    assert quiet.share_of_others(lambda: "result", []) == ("result", share)


def test_counters_of_real_processes_can_be_read() -> None:
    result, share = quiet.share_of_others(lambda: sum(range(1000)), [1])

    assert result == 499_500
    assert share >= 0
