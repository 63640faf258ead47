"""The local autoscaler's process: reads workers' metrics and scales models as mesh.autoscale decides."""

import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from mesh.autoscale import RULES, Autoscaler
from mesh.drain import Drain
from mesh.failure import MeshFailure
from mesh.launch import running_plan
from mesh.load import read_metrics
from mesh.plan import Plan, load_plan
from mesh.scale import begin_to_scale, remove_drained
from mesh.state import MARKER, StateFolder

EVERY_S: Final = 2.0


class Scaling:
    """Workers of a mesh that come and go. scalers: by served id.

    Nothing is waited for: while a worker loads or drains, all models are looked at as ever.
    """

    def __init__(self, state: StateFolder, scalers: Mapping[str, Autoscaler]) -> None:
        self._state, self._scalers, self._drain = state, scalers, Drain()

    def look(self) -> None:
        """Look once and begin to change what has to change. Raises MeshFailure."""
        plan = load_plan(self._state.plan)
        assert plan is not None, "a mesh that runs has a plan"
        numbers = self._wanted(plan)
        if not numbers and not plan.leaving:
            return
        with self._state.lock():
            if (plan := running_plan(self._state)) is None:
                return
            plan = remove_drained(plan, self._state, self._drain, _say)
            for model, number in numbers.items():
                plan = self._begin(plan, model, number)

    def _begin(self, plan: Plan, model: str, number: int) -> Plan:
        try:
            return begin_to_scale(plan, {model: number}, self._state, _say)
        except MeshFailure as failure:  # there is no room; other models may shrink
            _say(f"could not scale {model}: {failure}")
            return plan

    def _wanted(self, plan: Plan) -> dict[str, int]:
        """How many workers those models should have that have more or fewer."""
        workers = [part for model in self._scalers for part in plan.staying(model)]
        with ThreadPoolExecutor(max(1, len(workers))) as threads:  # who is stuck takes its time
            pages = list(threads.map(read_metrics, [part.metrics for part in workers]))
        numbers: dict[str, int] = {}
        for model, scaler in self._scalers.items():
            its = [page for part, page in zip(workers, pages, strict=True) if part.model == model]
            number = scaler.decide([page for page in its if page is not None], len(its), time.monotonic())
            if number != len(its):
                _say(f"{model}: {len(its)} workers, {number} wanted")
                numbers[model] = number
        return numbers


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
    scaling = Scaling(state, scalers)
    while True:
        time.sleep(EVERY_S)
        try:
            scaling.look()
        except MeshFailure as failure:  # another command is at work: try again
            _say(f"could not scale: {failure}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
