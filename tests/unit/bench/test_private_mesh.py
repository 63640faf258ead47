"""A measurement that is stopped takes its mesh with it: a real process, a pretended `zhinao`."""

import signal
import subprocess
import sys

BENCH = """
import time
from bench import private_mesh

def pretend(command, state, *options):
    print(command, flush=True)
    return '{"parts": []}'

private_mesh._zhinao = pretend
with private_mesh.private_mesh():
    print("measuring", flush=True)
    time.sleep(60)
"""


def test_a_terminated_measurement_stops_its_mesh() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BENCH], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as bench:
        assert bench.stdout
        before = [bench.stdout.readline().strip() for _ in range(3)]
        bench.send_signal(signal.SIGTERM)
        after, _ = bench.communicate(timeout=20)

    assert before == ["up", "status", "measuring"]
    assert after.split() == ["down"]
