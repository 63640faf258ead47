"""How a measured engine is asked and answers: a real process, a pretended engine."""

import json
import subprocess
import sys

ENGINE = """
from bench.peers.protocol import Outcome, serve

def prepare(job):
    print("chatter of a library")
    return lambda: Outcome(len(job.prompts) * job.max_tokens)

serve(prepare, {"version": "pretended 1"})
"""


def test_engine_introduces_itself_and_times_each_job_in_its_own_line() -> None:
    jobs = [{"prompts": [[1, 2], [3]], "max_tokens": 5}, {"prompts": [[1]], "max_tokens": 1, "newcomer": [4]}]
    lines = "".join(json.dumps(job) + "\n" for job in jobs)

    done = subprocess.run([sys.executable, "-c", ENGINE], input=lines, capture_output=True, text=True, check=True)

    about, *outcomes = map(json.loads, done.stdout.splitlines())
    assert about == {"version": "pretended 1"}
    assert [outcome["num_tokens"] for outcome in outcomes] == [10, 1]
    assert all(outcome["seconds"] >= 0 for outcome in outcomes)
    assert done.stderr.count("chatter of a library") == 2
