"""Whether engines that are measured end with the measurement."""

import subprocess
import sys

import psutil

_MEASUREMENT = """
import subprocess, sys
from bench.engines import bound
running = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
subprocess.run(bound([sys.executable, "-c", running]))
"""


def test_an_engine_ends_with_the_measurement_even_if_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", _MEASUREMENT], stdout=subprocess.PIPE, text=True) as measurement:
        assert measurement.stdout
        engine = psutil.Process(int(measurement.stdout.readline()))
        measurement.kill()

    engine.wait(5)

    assert not engine.is_running()
