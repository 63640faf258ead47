"""The local autoscaler's process: reads workers' metrics and scales models as mesh.autoscale decides."""

import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mesh.autoscale import RULES, Autoscaler
from mesh.failure import MeshFailure
from mesh.load import read_metrics
from mesh.plan import load_plan
from mesh.scale import scale
from mesh.state import MARKER, StateFolder

EVERY_S: Final = 2.0


def main() -> None:
    """Look again and again, until supervisor ends it."""
    state = StateFolder(Path(os.environ[MARKER]))
    plan = load_plan(state.plan)
    if plan is None:
        sys.exit(f"no plan in {state.path}")
    limits = plan.options.autoscale
    scalers = {
        model.id: Autoscaler(RULES[model.kind], plan.options.replicas.get(model.kind, 1), limits[model.kind])
        for model in plan.options.models
        if model.kind in limits
    }
    while True:
        time.sleep(EVERY_S)
        try:
            look(state, scalers)
        except MeshFailure:
            logging.exception("could not scale")  # another command is at work, or a worker did not start: try again


def look(state: StateFolder, scalers: Mapping[str, Autoscaler]) -> None:
    """Look once and scale, by served id. Raises MeshFailure."""
    plan = load_plan(state.plan)
    assert plan is not None, "a mesh that runs has a plan"
    numbers: dict[str, int] = {}
    for model, scaler in scalers.items():
        workers = plan.replicas(model)
        pages = [page for part in workers if (page := read_metrics(part.metrics)) is not None]
        number = scaler.decide(pages, len(workers), time.monotonic())
        if number != len(workers):
            _say(f"{model}: {len(workers)} workers, {number} wanted")
            numbers[model] = number
    if numbers:
        with state.lock():
            scale(state, numbers, _say)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
