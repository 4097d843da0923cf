"""Messages that do not come: their calls are ended, and nothing ends the watch over them."""

import threading

from witness.door import Messages


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
