"""Decides what the garbage collector of a process that serves looks through; knows nothing of what it serves."""

import gc


def keep_what_is_loaded() -> None:
    """Call once everything is loaded: what is there now is never looked through again.

    A full collection goes through every object of every library, which takes a gateway or a worker 50 ms, and thrice
    that on a busy machine; no thread of the process runs meanwhile. Afterwards there is little to go through.
    """
    gc.collect()
    gc.freeze()
