"""Messages that do not come: their calls are ended, and nothing ends the watch over them."""

import threading

import pytest

from witness.door import Messages, Refusal, _once_a_call


class Call:
    def __init__(self, error=None):
        self.error, self.ended = error, threading.Event()

    def cancel(self):
        self.ended.set()
        if self.error is not None:
            raise self.error


def test_a_call_that_cannot_be_ended_does_not_end_the_watch():
    messages, stuck, later = Messages(0.02), Call(RuntimeError("gone")), Call()
    messages._waiting[1] = 0.0, stuck
    messages.start()
    assert stuck.ended.wait(30)
    with messages._lock:
        messages._waiting = {2: (0.0, later)}
    assert later.ended.wait(30)
    messages.close()


def test_who_calls_is_asked_once_for_each_call():
    asked = []

    def identify(call):
        asked.append(call)
        if call is stranger:
            raise Refusal(16, "identity", "nobody")
        return "first" if call is first else "second"

    first, second, stranger = Call(), Call(), Call()
    identified = _once_a_call(identify)
    assert [identified(first), identified(first), identified(second)] == ["first", "first", "second"]
    assert asked == [first, second]
    for _ in range(2):
        with pytest.raises(Refusal):
            identified(stranger)
    assert identified(second) == "second"
    assert asked == [first, second, stranger, stranger]


def test_no_call_is_taken_for_one_that_has_ended_where_it_lies():
    def caller(name):
        call = Call()
        call.name = name
        return identified(call)

    identified = _once_a_call(lambda call: call.name)
    assert [caller(name) for name in "abc"] == list("abc")
