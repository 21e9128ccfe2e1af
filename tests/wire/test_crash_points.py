"""The back-end crashes at any point of its conversation and of its ring work, more than a thousand
times; for the guest each crash is a pause. The Recorder judges: what was completed is done exactly
once, what was in flight is done again, in its old order and before anything new.

SVQ_SEED chooses other points (it is in each test's captured output).
"""

import random

import pytest
from svqwire import message as wire
from svqwire.backend import PROTOCOL
from svqwire.mortal import COMMON, MESSAGES, PACKED_REGION, SPLIT_REGION, TRACKING, Mortal
from svqwire.pairs import PAIRS, Pair
from svqwire.pump import SEED, Pump
from svqwire.qmp import QmpError
from svqwire.recorder import Recorder

POINTS = 46  # each
RINGS = {
    "modern": {}, "plain": dict(event_idx=False, indirect=False),
    "in_order": dict(in_order=True), "in_order_behind": dict(in_order=True),
}
SAME = ("split-split", "packed-packed")
QUEUES = 4  # where all of them are meant
DOWN = (0, 0, 0, 0, 0.004, 0.02)  # seconds until the next one listens
FAST = {"reconnect": 0.005, "message-timeout": 5}


class Crashes:
    """A device whose back-end dies all the time."""

    def __init__(self, folder, closing, name, pair, rings, region=True, theirs=True,
                 backend_options=None, keys=None, **options):
        self.pick = random.Random(f"{SEED} {name}")
        print(f"SVQ_SEED={SEED}, {name}")
        self.recorder = Recorder()
        order = {"in_order": "has", "in_order_behind": "lacks"}.get(rings)
        bits = {order: wire.F_IN_ORDER} if order else {}
        self.made = closing(Pair(pair).bench(
            folder, **bits, **RINGS[rings], num=16, keys={**FAST, **(keys or {})}, backend=Mortal,
            start=False, backend_options=dict(
                recorder=self.recorder, seed=self.pick.random(),
                protocol=TRACKING if region else PROTOCOL, **(backend_options or {})), **options))
        self.unit, self.backend = self.made.unit, self.made.unit.backend
        self.backend.from_first = pair.startswith("packed-split")  # elsewhere slots are the guest's
        self.unit.dial().keeps_region = theirs
        self.unit.vmm.connect()
        self.unit.vmm.start()
        self.pump = Pump(self.unit.guest, self.recorder)

    def points(self):
        """Half of the time those of whatever comes next, else those of rings that run."""
        if self.pick.random() < 0.5:
            return COMMON
        self.until(lambda: self.backend.run(self.runs))
        if not self.backend.inflight:
            return COMMON
        return COMMON + (PACKED_REGION if self.backend.packed else SPLIT_REGION)

    def until(self, condition):
        self.pump.until(condition, lambda: "\n".join((
            f"{self.backend.deaths} deaths, the next one at {self.backend.plan}",
            f"back-end: {self.backend.connection}, {self.backend.names(-12)}",
            str(self.made.svqd.device("dev0")["backend"]), self.made.svqd.log()[-2500:])))

    def runs(self):
        return all(queue.ring for queue in self.backend.queues[:2])

    def some(self, count, turn=lambda: None):
        for number in range(count):
            self.backend.down = self.pick.choice(DOWN)
            before = self.backend.deaths
            if number % 3 == 2:
                self.at_message()
            else:
                self.backend.doom(self.pick.choice(self.points()), self.pick.randint(0, 12))
                self.until(lambda b=before: self.backend.deaths > b)
            turn()
            if self.pick.random() < 0.5:
                self.pump.rounds(self.pick.randint(1, 4))
            self.made.qmp.drain().clear()

    def at_message(self):
        """One death brings the conversation about in which the next one occurs."""
        before = self.backend.deaths
        side, message = self.pick.choice(("before", "after")), self.pick.choice(MESSAGES)
        self.backend.doom(f"{side} {message}", self.pick.randint(0, 1) if "VRING" in message else 0)
        self.backend.kill()
        self.until(lambda: self.backend.deaths >= before + 2)

    def judge(self):
        self.until(lambda: self.backend.connection)
        self.pump.rounds(4)
        self.pump.finish()
        assert self.recorder.again() > self.backend.deaths / 8, "hardly anything was in flight"
        state = self.made.svqd.device("dev0")["backend"]
        assert state["link"] == "up" and state["outages"] > self.backend.deaths / 4, state
        assert state["last-outage-microseconds"] > 0, state


def conversation(crashes):
    """The messages of a recovery."""
    crashes.pump.rounds(2)
    start = len(crashes.backend.log)
    crashes.backend.kill()
    crashes.made.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")
    return crashes.backend.names(start)


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("pair, mode", [
    ("split-split", "auto"), ("packed-packed", "auto"), ("split-split", "on"),
    ("packed-packed", "on"), ("packed-split", "on"), ("split-packed", "on"),
])
def test_at_every_message(folder, closing, pair, mode, side):
    """Each one of the recovery's conversation, in turn."""
    crashes = Crashes(folder, closing, f"every {pair} {mode} {side}", pair, "modern", shadow=mode)
    names = conversation(crashes)
    assert len(names) > 20 and names[0] == "GET_FEATURES" and names[-1] == "SET_VRING_ENABLE"
    for number, name in enumerate(names):
        crashes.until(lambda: crashes.backend.run(crashes.runs))
        before = crashes.backend.deaths
        crashes.backend.doom(f"{side} {name}", names[:number].count(name))
        crashes.backend.kill()
        crashes.until(lambda b=before: crashes.backend.deaths >= b + 2)
        assert not crashes.backend.doomed()
        crashes.made.qmp.drain().clear()
    assert sum(crashes.recorder.crashes.values()) == 2 * len(names) + 1
    crashes.judge()


@pytest.mark.parametrize("rings", RINGS)
@pytest.mark.parametrize("pair", PAIRS)
def test_shadowed(folder, closing, pair, rings):
    """Whatever the back-end can do: also with a region of its own, which is not to be used."""
    region = (PAIRS.index(pair) + list(RINGS).index(rings)) % 2 == 0
    crashes = Crashes(folder, closing, f"shadow {pair} {rings}", pair, rings, region, shadow="on")
    crashes.some(POINTS)
    crashes.judge()


@pytest.mark.parametrize("theirs", [True, False], ids=["vmm-s-region", "svqd-s-region"])
@pytest.mark.parametrize("rings", ["modern", "plain", "in_order"])
@pytest.mark.parametrize("pair", SAME)
def test_passed_through(folder, closing, pair, rings, theirs):
    """The back-end tracks what is in flight, in the VMM's region or in one of svqd's own."""
    crashes = Crashes(folder, closing, f"pass {pair} {rings} {theirs}", pair, rings,
                      theirs=theirs)
    assert crashes.made.svqd.device("dev0")["crash-safe"] == {"safe": True}
    crashes.some(POINTS)
    assert crashes.made.svqd.device("dev0")["mode"] == "pass-through"
    crashes.judge()


def test_passed_through_in_order(folder, closing):
    """No region: a split ring that is used in order goes on at its used index."""
    crashes = Crashes(folder, closing, "pass in order", "split-split", "in_order", region=False)
    assert crashes.made.svqd.device("dev0")["crash-safe"] == {"safe": True}
    crashes.some(POINTS)
    crashes.judge()


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_one_that_connects(folder, closing, mode):
    """svqd listens, and the next back-end comes by itself."""
    crashes = Crashes(folder, closing, f"connects {mode}", "split-split", "modern", shadow=mode,
                      backend_options={"connect": True},
                      keys={"backend": f"vhost-user:listen:{folder}/dev0.back"})
    crashes.some(POINTS)
    crashes.judge()


@pytest.mark.parametrize("pair", SAME)
def test_switched_all_the_time(folder, closing, pair):
    """From one mode to the other between the crashes, in them, and while nobody is there."""
    crashes = Crashes(folder, closing, f"flip {pair}", pair, "modern")
    done = []

    def switch():
        if crashes.pick.random() < 0.5:
            crashes.until(lambda: crashes.made.svqd.device("dev0")["backend"]["link"] == "up")
        enable = crashes.made.svqd.device("dev0")["mode"] != "shadow"
        try:
            crashes.made.svqd.shadow("dev0", enable)
            done.append(enable)
        except QmpError as error:
            assert error.error_class == "GenericError", error

    crashes.some(POINTS, switch)
    crashes.judge()
    assert len(done) > POINTS / 8 and True in done and False in done


@pytest.mark.parametrize("enable", [True, False], ids=["on", "off"])
@pytest.mark.parametrize("pair", SAME)
def test_between_the_answers_of_a_halt(folder, closing, pair, enable):
    """All rings are asked to stop at once. Those of which the answer came before the end have
    stopped, the others have not; all go on."""
    crashes = Crashes(folder, closing, f"halt {pair} {enable}", pair, "modern", queues=QUEUES)
    svqd, backend = crashes.made.svqd, crashes.backend
    for number in range(QUEUES):
        for side in ("before", "after"):
            crashes.until(lambda: svqd.device("dev0")["backend"]["link"] == "up")
            if svqd.device("dev0")["mode"] == ("shadow" if enable else "pass-through"):
                svqd.shadow("dev0", not enable)
            crashes.pump.rounds(2)
            before = backend.deaths
            backend.hold = True
            crashes.pump.fill(2)
            backend.doom(f"{side} GET_VRING_BASE", number)
            with pytest.raises(QmpError):
                svqd.shadow("dev0", enable)
            assert backend.deaths == before + 1 and not backend.doomed()
            backend.release()
            crashes.made.qmp.drain().clear()
    crashes.until(lambda: svqd.device("dev0")["backend"]["link"] == "up")
    svqd.shadow("dev0", enable)
    crashes.judge()
