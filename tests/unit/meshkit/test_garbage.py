"""What was loaded before the first request costs no request a pause."""

import gc

from meshkit.garbage import keep_what_is_loaded


def test_a_collection_goes_through_nothing_that_was_loaded() -> None:
    loaded = [[number] for number in range(1000)]
    try:
        keep_what_is_loaded()
        of_requests = [[number] for number in range(10)]
        looked_through = {id(each) for each in gc.get_objects()}
    finally:
        gc.unfreeze()

    assert not looked_through & {id(each) for each in loaded}
    assert looked_through >= {id(each) for each in of_requests}


def test_garbage_of_the_start_is_not_kept() -> None:
    class Node:
        other: "Node"

    def count() -> int:
        return sum(type(each) is Node for each in gc.get_objects())

    first, second = Node(), Node()
    first.other, second.other = second, first
    del first, second
    try:
        keep_what_is_loaded()
    finally:
        gc.unfreeze()

    assert count() == 0
