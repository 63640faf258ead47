"""Decides how a measured engine talks: a line of JSON per job in, one per outcome out; knows no engine. Stdlib only."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Job:
    """Answers of exactly max_tokens tokens, made together.

    prompts: token ids. top_p: None for greedy answers; a number for answers drawn at temperature 1, by ours only.
    newcomer: one more prompt, which arrives when every other answer has `newcomer_after` tokens, and gets one token.
    """

    prompts: list[list[int]]
    max_tokens: int
    newcomer: list[int] | None = None
    newcomer_after: int = 16
    top_p: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job took. token_s: of every answer, when each token came, from the job's start; peers leave it empty.

    newcomer_s: when the newcomer was handed in and when its token came.
    """

    num_tokens: int
    token_s: list[list[float]] = field(default_factory=list[list[float]])
    newcomer_s: tuple[float, float] | None = None
    seconds: float = 0.0


# Lays a job out as the engine wants it, and returns what is to be timed.
Prepare = Callable[[Job], Callable[[], Outcome]]


def serve(prepare: Prepare, about: Mapping[str, str]) -> None:
    """Answer jobs until stdin ends. The first line out is `about`, which says that the engine is loaded."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print what they like; only answers may go where the answers are read

    def answer(words: Mapping[str, object]) -> None:
        answers.write(json.dumps(words) + "\n")
        answers.flush()

    answer(about)
    for line in sys.stdin:
        run = prepare(Job(**json.loads(line)))
        began_s = time.perf_counter()
        outcome = run()
        seconds = time.perf_counter() - began_s
        answer(asdict(outcome) | {"seconds": seconds})


def run_engine(main: Callable[[], None]) -> None:
    """Run an engine's main; where it fails, end at once, though threads of the engine's library would go on."""
    try:
        main()
    except Exception:  # noqa: BLE001 -- whatever it is, who waits for the engine must see it end
        traceback.print_exc()
        os._exit(1)
