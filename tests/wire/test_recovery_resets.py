"""A reset in any state of the recovery: what was in flight is forgotten, by everybody. The VMM may
keep its in-flight region for the next driver, or fetch another one."""

import pytest
from svqwire import message as wire
from svqwire.message import Id
from svqwire.mortal import TRACKING
from svqwire.scene import Scene

RESETS = {
    "RESET_DEVICE": (Id.RESET_DEVICE, b""),
    "RESET_OWNER": (Id.RESET_OWNER, b""),
    "status-0": (Id.SET_STATUS, wire.u64(0)),
}
ENTER = {
    "direct": lambda scene: scene.serve(),
    "shadow": lambda scene: scene.serve(shadow=True),
    "switching": lambda scene: (scene.serve(), scene.in_switch()),
    "replacing": lambda scene: (scene.serve(), scene.in_replacement()),
    "lost": lambda scene: (scene.serve(shadow=True), scene.lose()),
    "lost-direct": lambda scene: (scene.serve(), scene.lose()),
    "refused": lambda scene: (scene.serve(shadow=True), scene.refuse()),
}


def tracked(made):
    """What the VMM's region lists, queue by queue."""
    region = made.unit.vmm.region
    return [region.report(queue.index, queue.ring).heads for queue in made.guest.queues]


@pytest.mark.parametrize("warm", [0, 2], ids=["first-requests", "later-ones"])
@pytest.mark.parametrize("keeps", [True, False], ids=["same-region", "another-region"])
@pytest.mark.parametrize("how", RESETS)
@pytest.mark.parametrize("state", ENTER)
def test_reset(folder, closing, state, how, keeps, warm):
    made = closing(Scene(folder, closing,
                         backend_options=dict(protocol=TRACKING | wire.P_STATUS)))
    made.warm = warm
    ENTER[state](made)
    vmm, (id, payload) = made.unit.vmm, RESETS[how]
    vmm.post(id, payload, flags=wire.VERSION | wire.NEED_REPLY)
    made.mend()
    assert vmm.reply(id, 8) == wire.u64(0)
    if how == "status-0":  # QEMU's way: rings are stopped after it
        for queue in made.guest.queues:
            vmm.get_vring_base(queue)
    if made.command:
        assert made.command.done().error is None
    for queue in made.guest.queues:
        queue.complete(0, check=False)  # what was complete before it
    made.guest.restart()
    made.guest.life -= keeps
    made.backend.recorder = made.other.recorder = None
    for queue in made.guest.queues:
        queue.recorder = None
        queue.ring.free.reverse()  # the next driver's heads are others
        for _ in range(4):
            queue.ring.add([b"new"], [16])
        queue.flush(force=True)
    vmm.start()
    vmm.sync()
    made.wait_link("up")
    made.guest.drain()
    made.unit.io()
    for queue in made.guest.queues:
        assert queue.ring.used_idx() == queue.ring.avail_idx, "completions that nobody asked for"
    assert tracked(made) == [[], []]


@pytest.mark.parametrize("theirs", [True, False], ids=["vmm-s-region", "svqd-s-region"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("held", [0, 3], ids=["nothing-in-flight", "requests-in-flight"])
@pytest.mark.parametrize("mode", ["direct", "shadow"])
def test_dies_in_a_pause(folder, closing, mode, held, when, theirs):
    """QEMU pauses with status 0, then GET_VRING_BASE: the back-end dies before or after status 0.
    The rings go on where they were, and what was in flight is done. Only where nobody but the dead
    one's region tells what that was, and the ring will not start with it, the front-end is let go.
    """
    made = closing(Scene(folder, closing, theirs=theirs,
                         backend_options=dict(protocol=TRACKING | wire.P_STATUS)))
    made.serve(shadow=mode == "shadow")
    vmm, backend = made.unit.vmm, made.backend
    if not held:
        made.mend()
        made.pump.finish()
    if when == "after":
        vmm.post(Id.SET_STATUS, wire.u64(0), flags=wire.VERSION | wire.NEED_REPLY)
        if mode == "shadow":
            backend.run(lambda: setattr(backend, "hold", False))
        assert vmm.reply(Id.SET_STATUS, 8) == wire.u64(0)
    backend.hold = False
    backend.kill()
    if mode == "direct" and held and when == "after" and not theirs:
        event = made.qmp.wait_event("DEVICE_FRONTEND_DISCONNECTED", id="dev0")
        assert "cannot recover" in event["data"]["reason"], event
        made.ended()
        return
    made.qmp.wait_event("DEVICE_BACKEND_RECOVERED", id="dev0")
    if when == "before":
        vmm.tell(Id.SET_STATUS, wire.u64(0))
    bases = [vmm.get_vring_base(queue) for queue in made.guest.queues]
    for queue, base in zip(made.guest.queues, bases):
        queue.complete(0)
        assert base == queue.ring.base() - len(queue.ring.outstanding)
        vmm.start_queue(queue, base)
        vmm.vring_enable(queue)
    made.serves()
