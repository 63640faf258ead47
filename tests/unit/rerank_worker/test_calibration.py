"""What a calibration file may say, and what it does to scores."""

import json
import math
from pathlib import Path

import pytest

from modelkit.config import CheckpointError
from services.rerank_worker.calibration import Calibration, read_calibration


def test_without_a_file_scores_are_taken_as_they_are(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) == Calibration(temperature=1.0, threshold=None, score_position=-1)


def test_a_file_may_say_some_or_all(tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text('{"temperature": 1.5}')
    assert read_calibration(tmp_path) == Calibration(temperature=1.5)
    (tmp_path / "calibration.json").write_text('{"temperature": 2, "threshold": 0.25, "score_position": 1}')
    assert read_calibration(tmp_path) == Calibration(2.0, 0.25, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"temperature": 0}, "temperature is 0, must be a positive finite number"),
        ({"temperature": "1"}, "temperature is '1'"),
        ({"threshold": 1.5}, "threshold is 1.5, must be a relevance from 0 to 1"),
        ({"threshold": True}, "threshold is True"),
        ({"score_position": 2}, "score_position is 2, must be a whole number from -3 to 1"),
        ({"score_position": -0.5}, "score_position is -0.5"),
        ({"heat": 1}, r"\['heat'\] are none of its keys"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: dict[str, object], message: str) -> None:
    (tmp_path / "calibration.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"calibration.json: {message}"):
        read_calibration(tmp_path)


def test_relevance_stays_between_0_and_1_and_keeps_the_order() -> None:
    calibration = Calibration(temperature=0.5)
    logits = [calibration.of_logit(raw) for raw in (-1e6, -2.0, 0.0, 2.0, 1e6)]
    assert logits == sorted(logits)
    assert (logits[0], logits[2], logits[-1]) == (0.0, 0.5, 1.0)
    assert logits[1] == pytest.approx(1 / (1 + math.exp(4)))
    assert [calibration.of_log_likelihood(raw) for raw in (-1e6, 0.0)] == [0.0, 1.0]
    assert calibration.of_log_likelihood(-1.0) == pytest.approx(math.exp(-2))
