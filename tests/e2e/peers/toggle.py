"""Toggling the shadow under load."""

from .wait import wait_for


def toggle_under_load(wiring, ident, times, progress, step, alive=None, timeout=30):
    """Switch the shadow times times; after each switch at least step more progress() must come.

    So every mode has carried load, and a stall after any switch is seen as one. Returns how much
    progress there was after each switch. alive() may raise to end the wait early.
    """
    enable = False
    seen = []
    for number in range(times):
        enable = not enable
        wiring.shadow(ident, enable)
        before = progress()

        def moved(before=before):
            if alive:
                alive()
            return progress() - before >= step and progress() - before

        mode = "shadow" if enable else "pass-through"
        seen.append(wait_for(moved, f"load flows after switch {number + 1} to {mode}", timeout))
    return seen


class Renewal:
    """For devices bound to the shadow: where others are switched, their policy is set again."""

    def __init__(self, daemon):
        self._daemon = daemon

    def shadow(self, ident, enable):
        self._daemon.qmp.execute("device-set-shadow", id=ident, shadow="on" if enable else "auto")
        assert self._daemon.mode(ident) == "shadow"
