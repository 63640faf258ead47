"""Logs: one JSON object a line, whatever is logged."""

import json
import logging
import subprocess
import sys

from meshkit.logs import JsonFormatter


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("mesh.test", logging.WARNING, __file__, 1, message, arguments, None)
    vars(made).update(extra)
    return made


def test_record_is_one_line_with_its_fields_and_readable_chinese() -> None:
    text = JsonFormatter("gateway").format(record("第%d行\n下一行", 1, fields={"model": "智脑", "seconds": 0.5}))

    line = json.loads(text)
    assert "\n" not in text
    assert "智脑" in text
    assert (line["level"], line["service"], line["logger"]) == ("warning", "gateway", "mesh.test")
    assert (line["message"], line["model"], line["seconds"]) == ("第1行\n下一行", "智脑", 0.5)


def test_time_is_utc_with_milliseconds() -> None:
    text = JsonFormatter("gateway").format(record("x", created=1_700_000_000.0, msecs=7.0))

    assert json.loads(text)["time"] == "2023-11-14T22:13:20.007Z"


def test_value_that_json_does_not_know_is_spelled_out() -> None:
    text = JsonFormatter("gateway").format(record("x", fields={"kind": ValueError("bad")}))

    assert json.loads(text)["kind"] == "bad"


def test_process_logs_json_lines_on_standard_error_with_exceptions_inside() -> None:
    program = """
import logging
from meshkit.logs import setup_logging
setup_logging("chat_worker", "info")
logging.getLogger("a").debug("unseen")
try:
    raise ValueError("坏的\\n输入")
except ValueError:
    logging.getLogger("a").exception("failed")
"""

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)

    (line,) = map(json.loads, result.stderr.splitlines())
    assert result.stdout == ""
    assert (line["service"], line["level"], line["message"]) == ("chat_worker", "error", "failed")
    assert line["exception"].startswith("Traceback") and line["exception"].endswith("ValueError: 坏的\n输入")
