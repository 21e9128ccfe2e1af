"""What a scripted back-end is to do wrong, and when."""

from dataclasses import dataclass, field


class Nack(Exception):
    """The handler refuses: a non-zero ack."""


class Drop(Exception):
    """The handler ends the connection."""


class Crash(Exception):
    """The back-end's process dies here."""


@dataclass
class Fault:
    """Fires on the message after `skip` matching ones, once.

    action: "close"   drop the connection instead of handling the message
            "closed"  handle it, then drop the connection without an answer
            "silent"  handle it and never answer
            "nack"    refuse it (no effect unless it asked for an ack)
            "alter"   answer with what `alter`, a function of the reply Message, makes of it
            "call"    run `call`, then go on as usual
    """

    action: str
    id: int = None
    skip: int = 0
    alter: callable = None
    call: callable = None
    fired: bool = field(default=False, init=False)

    def matches(self, message):
        if self.fired or self.id not in (None, message.id):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.fired = True
        return True
