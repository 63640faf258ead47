"""`zhinao logs`."""

from pathlib import Path

import pytest

from cli.failures import UsageFailure
from cli.logs import show_logs
from mesh.state import StateFolder


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    state = StateFolder(tmp_path)
    state.make()
    (state.logs / "gateway-0.log").write_text("".join(f"gateway {number}\n" for number in range(100)))
    (state.logs / "envoy.log").write_text("envoy\n")
    return state


def test_the_end_of_one_parts_log_is_shown(state: StateFolder, capfd: pytest.CaptureFixture[str]) -> None:
    show_logs(state, "gateway-0", follow=False)

    assert capfd.readouterr().out.splitlines() == [f"gateway {number}" for number in range(50, 100)]


def test_without_a_part_all_are_shown(state: StateFolder, capfd: pytest.CaptureFixture[str]) -> None:
    show_logs(state, None, follow=False)

    shown = capfd.readouterr().out
    assert "envoy\n" in shown and "gateway 99\n" in shown and "envoy.log" in shown


@pytest.mark.parametrize("part", ["gateway", "../run/plan"])
def test_a_name_of_no_part_is_told_those_there_are(state: StateFolder, part: str) -> None:
    with pytest.raises(UsageFailure, match="there are envoy, gateway-0"):
        show_logs(state, part, follow=False)


def test_a_mesh_that_never_ran_has_no_logs(tmp_path: Path) -> None:
    with pytest.raises(UsageFailure, match="no logs"):
        show_logs(StateFolder(tmp_path), None, follow=False)
