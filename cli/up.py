"""`zhinao up`: starts a mesh, shows how it comes to life, and in the foreground brings it down again at the end."""

import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from types import FrameType, MappingProxyType
from typing import Final, cast

import typer
from rich.console import Console

from cli.failures import say
from cli.keys import choose_database, own_key
from cli.options import UpWords, check_checkpoint, to_options, wanted_models
from cli.weights import find_checkpoint
from mesh.failure import MeshFailure
from mesh.launch import running_plan, start, wait_until_ready
from mesh.plan import Model, Options, Plan
from mesh.probe import first_answer
from mesh.state import StateFolder
from mesh.supervisord import Supervisor
from mesh.teardown import bring_down, stop_autoscaler

INTERRUPTED: Final = 130  # what a shell expects after Ctrl-C
_EXAMPLES: Final = MappingProxyType(  # bodies by path, without the model
    {
        "/v1/chat/completions": (
            '"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 60, "stream": true'
        ),
        "/v1/completions": '"prompt": "Hello", "max_tokens": 60, "stream": true',
        "/v1/embeddings": '"input": "Hello"',
        "/v1/rerank": '"query": "capital of France", "documents": ["Paris is in France.", "Cats sleep."]',
    }
)


def up(words: UpWords, state: StateFolder, detach: bool) -> None:
    """Start the mesh or find it running. Raises UsageFailure or MeshFailure; a mesh that fails to start is stopped."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    wanted = wanted_models(words)
    models = [Model(model.id, model.kind, str(find_checkpoint(model.source, model.kind))) for model in wanted]
    database_url = choose_database(state, words.host, insecure_no_keys=words.insecure_no_keys)
    options = to_options(words, models, database_url)
    with state.lock(make=True):
        running = running_plan(state)
        if running is not None:
            check_same(running.options, options, state)
            typer.echo("the mesh is up already")
            with own_key(database_url) as key:
                paths = {model.id: first_answer(running.edge, model, key=key) for model in models}
            _announce(running, paths, state)
            return
        for model in models:
            check_checkpoint(model)
        _start(options, state)
    if not detach:
        stay(state)


def _start(options: Options, state: StateFolder) -> None:
    bring_down(state, lambda _: None)  # what a killed mesh left would be in the way
    began_s = time.monotonic()
    console = Console()
    try:
        plan = start(options, state)
        parts = ", ".join(part.name for part in plan.parts)
        with console.status(f"starting {parts}"), own_key(options.database_url) as key:
            paths = wait_until_ready(
                plan,
                state,
                lambda name: console.print(f"  {name} is ready ({time.monotonic() - began_s:.1f} s)"),
                key=key,
            )
        say(f"the mesh is up ({time.monotonic() - began_s:.1f} s)")
        _announce(plan, paths, state)
    except KeyboardInterrupt:
        _take_no_more_signals()
        say("interrupted: stopping", err=True)
        _bring_down_quietly(state)
        raise typer.Exit(INTERRUPTED) from None
    except BaseException:
        _bring_down_quietly(state)
        raise


def stay(state: StateFolder) -> None:
    """Wait for Ctrl-C, SIGTERM, a closed terminal or the mesh's end; then bring it down."""
    supervisor, never = Supervisor(state), threading.Event()
    try:
        say("Ctrl-C stops it")
        while supervisor.is_running():
            never.wait(1.0)
    except KeyboardInterrupt:
        _take_no_more_signals()
        say("stopping")
    else:
        _take_no_more_signals()
    stop_autoscaler(state)
    with state.lock(wait=True):  # it may be a `zhinao down` that ended the mesh, and is not done yet
        bring_down(state, say)


def _bring_down_quietly(state: StateFolder) -> None:
    _take_no_more_signals()
    bring_down(state, lambda _: None)


def check_same(running: Options, wanted: Options, state: StateFolder) -> None:
    """Raise MeshFailure if the mesh that runs is not the one that is wanted."""
    runs, wants = asdict(running), asdict(wanted)
    # the URL of the database may hold a password
    differences = [
        "database of keys is not the same"
        if name == "database_url"
        else f"{name} {'are' if name.endswith('s') else 'is'} {_in_words(runs[name])}, not {_in_words(wants[name])}"
        for name in runs
        if runs[name] != wants[name]
    ]
    if differences:
        raise MeshFailure(
            f"another mesh runs in {state.path}: its {'; its '.join(differences)}. "
            "Stop it first (zhinao down), or give this one a --state and a --port of its own"
        )


def _in_words(value: object) -> str:
    """An option's value, in the words of the command line rather than Python's."""
    match value:
        case {"id": str(model_id), "kind": str(kind), "path": str(path)}:
            return f"{model_id}={kind}:{path}"
        case Mapping():
            items = cast(Mapping[str, object], value).items()
            return ", ".join(f"{name}={_in_words(each)}" for name, each in items) or "none"
        case tuple():
            return ", ".join(_in_words(each) for each in cast(tuple[object, ...], value)) or "none"
        case None:
            return "unset"
        case _:
            return str(value)


def _announce(plan: Plan, paths: dict[str, str], state: StateFolder) -> None:
    say(f"  REST and gRPC  {plan.edge}")
    say(f"  documentation  {plan.edge}/docs")
    say(f"  models         {', '.join(paths) or '(none)'}")
    say(f"  logs           {state.logs}")
    if plan.options.database_url is None:
        say(
            f"  KEYS           NONE: whoever reaches {plan.edge} is served. "
            "To ask for keys: zhinao keys create NAME, zhinao down, and up again"
        )
    else:
        say("  keys           needed: zhinao keys create NAME makes one")
    shown: set[str] = set()
    for model in plan.options.models:
        if model.kind not in shown:
            shown.add(model.kind)
            say(f"\n{_example(plan, model.id, paths[model.id])}")
    say("")


def _example(plan: Plan, model: str, path: str) -> str:
    """A call that can be pasted into a shell."""
    fields = f'"model": "{model}", {_EXAMPLES[path]}'
    key = ' -H "authorization: Bearer $OPENAI_API_KEY"' if plan.options.database_url else ""
    return f"curl -N {plan.edge}{path}{key} -H 'content-type: application/json' -d '{{{fields}}}'"


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _take_no_more_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
