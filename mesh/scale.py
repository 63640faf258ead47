"""Changes how many workers a model of a running mesh has: at once, or until new ones serve and others have left."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mesh.drain import POLL_S, Drain, listed_ports, with_leaving
from mesh.failure import MeshFailure
from mesh.launch import running_plan, wait_for_parts
from mesh.layout import THREADS, Layout, check_num_workers, share
from mesh.plan import Model, Part, Plan, save_plan
from mesh.ports import is_free
from mesh.state import StateFolder
from mesh.supervisord import Supervisor, write_config
from mesh.triton import remove_shared_memory

Say = Callable[[str], None]


def scale(state: StateFolder, wanted: Mapping[str, int], say: Say) -> None:
    """Give models so many workers. wanted: by kind or by id. Raises MeshFailure; what fails to start is removed.

    A run that was interrupted is completed by the next one.
    """
    plan = running_plan(state)
    if plan is None:
        raise MeshFailure(f"no mesh runs in {state.path}")
    numbers = numbers_by_model(plan.options.models, wanted)
    _write(plan, state)
    plan = _remove_leaving(plan, state, say)
    plan, added = with_added(plan, numbers, Layout.of(plan, state))
    if added:
        _write(plan, state)
        say(f"starting {', '.join(part.name for part in added)}")
        try:
            wait_for_parts(added, plan, state, lambda name: say(f"  {name} is ready"))
        except BaseException:
            _remove_leaving(with_leaving(plan, {part.name for part in added}), state, say)
            raise
    _remove_leaving(with_surplus_leaving(plan, numbers), state, say)


def begin_to_scale(plan: Plan, numbers: Mapping[str, int], state: StateFolder, say: Say) -> Plan:
    """Start workers that are missing, and have those leave that are too many, which remove_drained removes later.

    numbers: by id. Returns the plan that runs now, before anything of it has happened. Raises MeshFailure.
    """
    plan, added = with_added(plan, numbers, Layout.of(plan, state))
    if added:
        say(f"starting {', '.join(part.name for part in added)}")
    less = with_surplus_leaving(plan, numbers)
    if names := [part.name for part in less.leaving if not plan.part(part.name).is_leaving]:
        say(f"draining {', '.join(names)}")
    _write(less, state)
    return less


def remove_drained(plan: Plan, state: StateFolder, drain: Drain, say: Say) -> Plan:
    """Stop the workers that leave and may be stopped, and forget those that have ended; returns at once."""
    over = [part.name for part in drain.over(plan.leaving, listed_ports(plan, state), time.monotonic())]
    supervisor = Supervisor(state)
    supervisor.begin_to_stop(over)
    processes = supervisor.states()
    gone = {name for name in over if name not in processes or processes[name].pid is None}
    if not gone:
        return plan
    kept = with_shares(replace(plan, parts=tuple(part for part in plan.parts if part.name not in gone)))
    _write(kept, state)
    for name in sorted(gone):
        remove_shared_memory(str(plan.part(name).shm_prefix))
        say(f"  {name} is gone")
    return kept


def numbers_by_model(models: Sequence[Model], wanted: Mapping[str, int]) -> dict[str, int]:
    """How many workers each model gets that is named by its kind or its id. Raises MeshFailure."""
    numbers: dict[str, int] = {}
    for name, number in wanted.items():
        ids = [model.id for model in models if name in {model.kind, model.id}]
        if not models:
            raise MeshFailure(f"{name}={number}: this mesh has no models")
        if not ids:
            kinds = sorted({model.kind for model in models} | {model.id for model in models})
            raise MeshFailure(f"no model of this mesh is of kind, or called, {name!r}; there are {', '.join(kinds)}")
        if number < 1:
            raise MeshFailure(f"{name}={number}: a model of a running mesh keeps at least 1 worker")
        numbers |= dict.fromkeys(ids, number)
    return numbers


def with_added(plan: Plan, numbers: Mapping[str, int], layout: Layout) -> tuple[Plan, list[Part]]:
    """The plan with the workers that are missing, each in a free place, and those alone.

    Raises MeshFailure if there are no ports left.
    """
    missing = [
        (model, replica)
        for model in plan.options.models
        for replica in _new_replicas(plan, model.id, numbers.get(model.id, 0))
    ]
    check_num_workers(len(plan.workers) + len(missing))
    slots = [
        slot
        for slot in layout.free_slots(plan.parts)
        if all(is_free("127.0.0.1", port) for port in layout.worker_ports(slot))
    ]
    if len(slots) < len(missing):
        raise MeshFailure(f"{len(missing)} workers are missing, and the ports of only {len(slots)} are free")
    added = [
        layout.worker(slot, model, replica, numbers[model.id])
        for slot, (model, replica) in zip(slots, missing, strict=False)
    ]
    return with_shares(replace(plan, parts=(*added, *plan.parts))), added


def _new_replicas(plan: Plan, model: str, number: int) -> list[int]:
    """The lowest that no worker has, not even one that leaves."""
    taken = {part.replica for part in plan.replicas(model)}
    num_missing = max(0, number - len(plan.staying(model)))
    return [replica for replica in range(len(taken) + num_missing) if replica not in taken][:num_missing]


def with_surplus_leaving(plan: Plan, numbers: Mapping[str, int]) -> Plan:
    """The plan in which the last of each model's workers leave until there are so many, by id."""
    surplus = {
        part.name
        for model, number in numbers.items()
        for part in sorted(plan.staying(model), key=lambda part: part.replica)[number:]
    }
    return with_leaving(plan, surplus)


def with_shares(plan: Plan) -> Plan:
    """The plan in which the workers of a model that stay share the processors; their next ping tells those that run."""
    numbers = Counter(part.model for part in plan.workers if not part.is_leaving)

    def shared(part: Part) -> Part:
        if part.model is None or part.is_leaving:
            return part
        return replace(part, environment={**part.environment, THREADS: str(share(numbers[part.model]))})

    return replace(plan, parts=tuple(map(shared, plan.parts)))


def _remove_leaving(plan: Plan, state: StateFolder, say: Say) -> Plan:
    """Take those that leave out of Envoy's lists, let their answers end, stop them and forget them."""
    if not plan.leaving:
        return plan
    say(f"draining {', '.join(part.name for part in plan.leaving)}")
    save_plan(plan, state.plan)  # the watchdog sees it and tells Envoy
    drain = Drain()
    while (plan := remove_drained(plan, state, drain, say)).leaving:
        time.sleep(POLL_S)
    return plan


def _write(plan: Plan, state: StateFolder) -> None:
    """Make the plan the running one."""
    save_plan(plan, state.plan)
    write_config(plan, state)
    Supervisor(state).follow_config()
