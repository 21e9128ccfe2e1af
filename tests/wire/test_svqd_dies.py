"""kill -9 of svqd at random moments under load: the VMM hands the in-flight region to the next
svqd, and nothing is lost, done in another order, or completed twice towards the guest.

The judge of the region looks at it after each death. SVQ_SEED chooses other moments.
"""

import random
import threading

import pytest
from svqwire import message as wire
from svqwire.backend import PROTOCOL
from svqwire.bench import AckingQemu
from svqwire.load import Load
from svqwire.mortal import TRACKING, Mortal
from svqwire.pairs import Pair
from svqwire.pump import SEED, Pump
from svqwire.recorder import SERIAL, Recorder
from svqwire.vmm import CloudHypervisor
from svqwire.wait import wait_until

KILLS = 22  # each
LONGEST = 0.006  # seconds of I/O before a kill
ENDS = (wire.Closed, BrokenPipeError, ConnectionResetError, AssertionError)
# pair, mode, VMM, do both die?
CASES = [
    ("split-split", "shadow", AckingQemu, False), ("split-split", "shadow", CloudHypervisor, False),
    ("packed-packed", "shadow", AckingQemu, False), ("split-packed", "shadow", AckingQemu, False),
    ("packed-split", "shadow", AckingQemu, True), ("split-split", "shadow", CloudHypervisor, True),
    ("split-split", "pass-through", AckingQemu, False),
    ("split-split", "pass-through", CloudHypervisor, True),
    ("packed-packed", "pass-through", AckingQemu, False),
    ("packed-packed", "pass-through", AckingQemu, True),
]


class Deaths:
    def __init__(self, folder, closing, name, pair, mode, vmm, **options):
        self.pick = random.Random(f"{SEED} {name}")
        print(f"SVQ_SEED={SEED}, {name}")
        self.recorder, self.kind = Recorder(rings_die=True), vmm
        protocol = TRACKING if mode == "pass-through" else PROTOCOL
        self.made = closing(Pair(pair).bench(
            folder, num=16, backend=Mortal, start=False, **options,
            shadow="on" if mode == "shadow" else "auto",
            backend_options=dict(recorder=self.recorder, protocol=protocol)))
        self.unit, self.backend, self.svqd = self.made.unit, self.made.unit.backend, self.made.svqd
        self.vmm = self.dial()
        self.vmm.connect()
        self.vmm.start()
        self.protocol = self.vmm.protocol
        self.pump = Pump(self.unit.guest, self.recorder)
        self.pump.served = lambda: self.svqd.process.poll() is None
        self.doomed, self.kills = None, 0

    def dial(self):
        """Bench and Unit see to its end."""
        self.unit.vmm = self.kind(self.unit.address, self.unit.guest)
        return self.unit.vmm

    def doom(self):
        """svqd will be killed at some moment from now on."""
        self.doomed = threading.Timer(self.pick.uniform(0, LONGEST), self.svqd.process.kill)
        self.doomed.start()

    def die(self):
        self.pump.until(lambda: self.svqd.process.poll() is not None, "svqd to be killed")
        self.bury()

    def bury(self):
        self.doomed.join()
        self.kills += 1
        self.svqd.kill()
        self.backend.wait_disconnected()

    def look(self):
        """The region, between two lives."""
        for queue in self.unit.guest.queues:
            queue.complete(0)
            found = self.vmm.region.serials(queue)
            taken = {s for s in range(queue.serial) if (queue.index, s) in self.recorder.takes}
            waiting = {s for s in taken if (queue.index, s) not in self.recorder.seen}
            assert waiting <= set(found), f"taken by the back-end and not in flight: {waiting}"

    def live(self, killed_again=False):
        """The next svqd, and the same VMM; the svqd may die in the middle of their conversation."""
        self.svqd.start()
        old, vmm = self.vmm, self.dial()
        if killed_again:
            self.doom()
        vmm.inherit_region(old)
        old.close()
        self.vmm = vmm
        try:
            vmm.reconnect(self.protocol)
        except ENDS:
            if not killed_again:
                raise

    def judge(self):
        self.pump.rounds(4)
        self.pump.finish()


@pytest.mark.parametrize("pair, mode, vmm, both", CASES,
                         ids=lambda value: getattr(value, "__name__", str(value)))
def test_killed_under_load(folder, closing, pair, mode, vmm, both):
    deaths = Deaths(folder, closing, f"{pair} {mode} {vmm.__name__} {both}", pair, mode, vmm)
    again = 0
    while deaths.kills < KILLS:
        deaths.doom()
        if both and deaths.kills % 2:
            deaths.backend.kill()
        deaths.die()
        if both and deaths.kills % 3:
            deaths.backend.kill()
        deaths.look()
        deaths.live(killed_again=deaths.kills % 4 == 3)
        if deaths.kills % 4 == 3:
            deaths.die()
            deaths.look()
            deaths.live()
        if deaths.pick.random() < 0.5:
            deaths.pump.rounds(2)
        again = deaths.recorder.again()
    deaths.judge()
    assert again > KILLS / 8, "hardly anything was in flight"


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_region_at_rest(folder, closing, packed):
    """In shadow mode, whenever driver and back-end have come to rest: the region holds just what
    the back-end holds, in the order of the requests."""
    pair = "packed-split" if packed else "split-split"
    deaths = Deaths(folder, closing, "rest", pair, "shadow", AckingQemu)
    backend, queues = deaths.backend, deaths.unit.guest.queues
    for turn in range(30):
        backend.hold = True
        deaths.pump.fill(turn % 5)
        wait_until(lambda: backend.held() == deaths.pump.outstanding(), "the back-end to hold all")
        for queue in queues:
            held = [chain.serial for chain in backend.queues[queue.index].held]
            assert deaths.vmm.region.serials(queue) == held
            assert deaths.vmm.region.report(queue.index, queue.ring).settled
        backend.run(lambda: portion(backend, deaths.pick))
        for queue in queues:
            wait_until(lambda q=queue: len(backend.queues[q.index].held) == held_by(q),
                       "the completions")
            held = [chain.serial for chain in backend.queues[queue.index].held]
            wait_until(lambda q=queue, h=held: deaths.vmm.region.serials(q) == h, "the region")
        if turn % 3 == 2:
            backend.release()
            for queue in queues:
                queue.drain()
                wait_until(lambda q=queue: deaths.vmm.region.serials(q) == [], "an empty region")
    backend.release()
    deaths.judge()


def portion(backend, pick):
    """Completes some of what is held, in any order."""
    for queue in backend.queues:
        some = pick.sample(queue.held, pick.randint(0, len(queue.held)))
        queue.held = [chain for chain in queue.held if chain not in some]
        queue.complete(some)


def held_by(queue):
    queue.complete(0)
    return len(queue.ring.outstanding)


def test_region_while_it_works(folder, closing):
    """Read at any moment: never a contradiction, and nothing in flight that is not outstanding."""
    deaths = Deaths(folder, closing, "work", "packed-split", "shadow", AckingQemu)
    load, reports = Load(deaths.unit.guest), 0
    region, rings = deaths.vmm.region, [queue.ring for queue in deaths.unit.guest.queues]
    while load.rounds < 40 and not load.error:
        for index, ring in enumerate(rings):
            part = region.part(index)
            try:
                region.report(index, ring)
                reports += 1
            except AssertionError:
                assert part != region.part(index), "a contradiction that stays"
    load.close()
    assert reports > 50


def without_region(folder, closing, mode, **options):
    """svqd is killed when the newest of three requests is complete, and the VMM goes on at the
    available index: the others are lost with svqd, or done after all. What comes then is served,
    and nothing is done again."""
    deaths = Deaths(folder, closing, f"none {mode}", "split-split", mode, CloudHypervisor,
                    **options)
    backend, queues = deaths.backend, deaths.unit.guest.queues
    backend.hold = True
    deaths.pump.fill(3)
    wait_until(lambda: backend.held() == 6, "the back-end to hold them")
    for queue in queues:
        backend.run(lambda q=backend.queues[queue.index]: q.complete([q.held.pop()]))
        queue.complete()
    deaths.svqd.kill()
    backend.wait_disconnected()
    backend.hold = False
    deaths.vmm.forget_region()
    deaths.svqd.start()
    deaths.dial().reconnect(deaths.protocol & ~wire.P_INFLIGHT)
    serve_new(deaths)
    return deaths


def serve_new(deaths):
    for queue in deaths.unit.guest.queues:
        old = queue.serial
        queue.complete(0)
        for _ in range(3):
            queue.submit_random()
        wait_until(lambda q=queue, n=old: all_seen(q, n), "the new requests")


def all_seen(queue, first):
    """Are all requests from that one on complete?"""
    queue.complete(0)
    return all(SERIAL.unpack_from(chain.data)[0] < first
               for chain in queue.ring.outstanding.values())


@pytest.mark.parametrize("mode", ["shadow", "pass-through"])
def test_the_vmm_has_no_region(folder, closing, mode):
    deaths = without_region(folder, closing, mode)
    assert not deaths.recorder.violations, deaths.recorder.violations
    safe = deaths.svqd.device("dev0")["crash-safe"]
    assert safe["safe"] is (mode == "shadow"), safe
    # What the back-end had complete is known all the same.
    deaths.backend.kill()
    deaths.svqd.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")
    serve_new(deaths)
    assert not deaths.recorder.violations, deaths.recorder.violations


def test_nobody_knows(folder, closing):
    """Requests were left out, and then the back-end dies with others: which those are cannot be
    told from its region, for that counts from the used index."""
    deaths = without_region(folder, closing, "pass-through")
    deaths.backend.hold = True
    deaths.pump.fill(2)
    wait_until(lambda: deaths.backend.held() == 4, "the back-end to hold them")
    deaths.backend.hold = False
    deaths.backend.kill()
    event = deaths.svqd.qmp.wait_event("DEVICE_FRONTEND_DISCONNECTED", id="dev0")
    assert "cannot recover" in event["data"]["reason"], event
    assert not deaths.recorder.violations, deaths.recorder.violations
