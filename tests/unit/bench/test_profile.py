"""Clocks around the parts of a step, on a pretended clock."""

from bench.profile import Profile, Stopwatch, to_markdown


class Clock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds


def test_part_is_not_charged_for_the_parts_it_calls() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    inner = watch.around("inner", lambda: clock.pass_time(5.0))

    def outer() -> str:
        clock.pass_time(1.0)
        inner()
        inner()
        clock.pass_time(2.0)
        return "result"

    assert watch.around("outer", outer)() == "result"
    assert watch.seconds == {"outer": 3.0, "inner": 10.0}


def test_table_shows_each_part_with_its_share_and_the_read_alone() -> None:
    parts = dict.fromkeys(("plan", "lay out", "choose", "commit, text, emit", "the loop's rest"), 0.0002)
    table = to_markdown([Profile(8, {"model": 0.003, **parts}, num_bytes=100_000_000)], bytes_per_s=50e9)

    lines = table.splitlines()
    assert "| model | 3.000 (75.0%) |" in lines
    assert lines[-3:] == ["| **step** | **4.000** |", "| reads, MB | 100 |", "| such a read alone | 2.000 |"]
