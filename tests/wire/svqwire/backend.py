"""The scripted vhost-user back-end: a slave on a socket, in a thread of its own.

It does what the specification says, writes down every breach of it by its front-end in
`violations`, and does wrong only what a Fault tells it to. Everything it owns is touched by its
own thread alone; a test uses run() to step in, and plain attributes to set its manners.
"""

import heapq
import os
import selectors
import socket
import threading
import time

from . import message as wire
from .backqueue import BackQueue
from .devicering import DeviceMemory, Translation
from .dirtylog import LogWriter
from .door import Calling, Listening
from .fault import Crash, Drop, Fault, Nack
from .keeper import InflightMemory, answer_get
from .message import Id, Message
from .table import violations
from .wait import wait_until

FEATURES = (
    wire.F_VERSION_1 | wire.F_EVENT_IDX | wire.F_INDIRECT | wire.F_PROTOCOL | wire.bit(6)
)
PROTOCOL = (
    wire.P_MQ | wire.P_REPLY_ACK | wire.P_CONFIG | wire.P_BACKEND_REQ | wire.P_RESET_DEVICE
    | wire.P_MEM_SLOTS | wire.P_DEVICE_STATE | wire.P_MTU | wire.P_RARP
)
LOGGING = wire.P_LOG_SHMFD
TYPED = (
    Id.GET_FEATURES, Id.GET_PROTOCOL_FEATURES, Id.GET_QUEUE_NUM, Id.GET_VRING_BASE,
    Id.GET_CONFIG, Id.GET_MAX_MEM_SLOTS, Id.GET_STATUS, Id.SET_DEVICE_STATE_FD,
    Id.CHECK_DEVICE_STATE, Id.SET_LOG_BASE, Id.GET_INFLIGHT_FD,
)
CONFIG = bytes((7 * n + 1) & 0xFF for n in range(96))


class BackEnd:
    max_regions = 32

    def __init__(self, path, queues=4, features=FEATURES, protocol=PROTOCOL, logs=False,
                 connect=False):
        """connect: the front-end listens at path, not the back-end."""
        self.path, self.queue_num = str(path), queues
        self.features = features | (wire.F_LOG_ALL if logs else 0)
        self.protocol = protocol | (LOGGING if logs else 0)
        self.config, self.slots, self.state = bytearray(CONFIG), 16, b"state" * 1000
        # The device's manners: see BackQueue.
        self.order, self.hold, self.drain = "fifo", False, "before"
        self.short, self.corrupt, self.keeps_call = False, None, True
        self.half_base, self.strict, self.from_first = False, True, False
        self.keep_memory = False  # True: the fds of memory regions are kept in `memory_fds`
        self.memory_fds = []
        self.log, self.violations, self.faults = [], [], []
        self.recorder = None
        self.sessions = 0
        self.connection = None
        self.loaded = None
        self._reset_session()
        self.selector = selectors.DefaultSelector()
        self.timers, self.tasks, self.error = [], [], None
        self.wake = os.eventfd(0, os.EFD_NONBLOCK)
        self.watch(self.wake, self._woken)
        self.running = True
        self.door = Calling(self) if connect else Listening(self)
        self.door.open()
        self.thread = threading.Thread(target=self._loop, daemon=True)
        self.thread.start()

    def _reset_session(self):
        self.acked = self.acked_protocol = 0
        self.memory = DeviceMemory()
        self.dirty_log = None
        self.queues = [BackQueue(self, i) for i in range(self.queue_num)]
        self.state_fd, self.loading = -1, None
        self.status = self.mtu = 0
        self.rarp = None
        self.requests = None
        self.inflight = None
        self.stopped = []  # work of stopped rings, to be finished when asked to

    # For the test's thread.

    def run(self, function):
        """Runs function() in the back-end's thread and returns its result."""
        done, box = threading.Event(), []

        def task():
            try:
                box.append((function(), None))
            except Exception as error:  # handed to the caller below
                box.append((None, error))
            done.set()

        self.tasks.append(task)
        os.eventfd_write(self.wake, 1)
        assert done.wait(10), f"the scripted back-end hangs: {self.error}"
        value, error = box[0]
        if error:
            raise error
        return value

    def fault(self, action, id=None, **options):
        fault = Fault(action, id, **options)
        self.run(lambda: self.faults.append(fault))
        return fault

    def release(self):
        """Completes what is held, and holds no more."""
        self.run(self.complete_held)

    def complete_held(self):
        self.hold = False
        for queue in self.queues:
            queue.complete_held()

    def finish_stopped(self):
        """Completes what rings held when they were stopped; drain="asked"."""
        self.drain = "before"
        while self.stopped:
            queue, held, call = self.stopped.pop(0)
            queue.finish_late(held, call)

    def held(self):
        return sum(len(queue.held) for queue in self.queues)

    def count(self, id):
        return sum(1 for message in self.log if message.id == id)

    def names(self, start=0):
        return [message.name for message in self.log[start:]]

    def wait_for(self, id, count=1, seconds=5.0):
        wait_until(
            lambda: self.count(id) >= count, lambda: f"{wire.name_of(id)}: {self.names()}", seconds
        )

    def wait_disconnected(self, seconds=5.0):
        wait_until(lambda: self.connection is None, "the back-end to be left", seconds)

    def disconnect(self):
        self.run(self._drop)

    def abandon(self):
        """Leaves with all that it holds, and holds no more when it is back."""

        def leave():
            self._drop()
            self.hold = False

        self.run(leave)

    def close(self):
        if self.running:
            self.running = False
            os.eventfd_write(self.wake, 1)
            self.thread.join(10)
            assert not self.thread.is_alive(), "the scripted back-end hangs"
            self._drop()
            self.door.close()
            os.close(self.wake)
            self.selector.close()

    # The loop.

    def watch(self, fd, function):
        self.selector.register(fd, selectors.EVENT_READ, function)

    def unwatch(self, fd):
        if fd in self.selector.get_map():
            self.selector.unregister(fd)

    def later(self, seconds, function):
        heapq.heappush(self.timers, (time.monotonic() + seconds, id(function), function))

    def _loop(self):
        while self.running:
            timeout = max(self.timers[0][0] - time.monotonic(), 0) if self.timers else None
            for key, _ in self.selector.select(timeout):
                now = self.selector.get_map().get(key.fd)
                if now and now.data == key.data:  # an earlier event may have closed it
                    self._step(key.data)
            while self.timers and self.timers[0][0] <= time.monotonic():
                self._step(heapq.heappop(self.timers)[2])

    def _step(self, function):
        try:
            function()
        except Drop:
            self._drop()
        except Crash:
            self.crash()
        except Translation as error:
            self.violations.append(f"outside the memory table: {error}")
        except Exception as error:
            self.error = error
            self.violations.append(f"the scripted back-end failed: {error!r}")
            self._drop()

    def _woken(self):
        os.eventfd_read(self.wake)
        while self.tasks:
            self.tasks.pop(0)()

    def _accept(self):
        if self.connection:
            self.door.pause()  # until the present one has gone
            return
        connection = self.door.take()
        if not connection:
            return
        self.connection = connection
        self.sessions += 1
        self._reset_session()
        self.watch(self.connection.fileno(), self._readable)

    def step(self, name):
        """The device's work comes to a point where it may crash."""

    def crash(self):
        """The process dies, and another one serves the next front-end."""
        self._drop()
        self._reset_session()

    def _drop(self):
        if not self.connection:
            return
        self.unwatch(self.connection.fileno())
        self.connection.close()
        self.connection = None
        for queue in self.queues:
            queue.close()
        while self.memory_fds:
            os.close(self.memory_fds.pop()[1])
        if self.requests:
            self.requests.close()
            self.requests = None
        if self.state_fd >= 0:
            os.close(self.state_fd)
            self.state_fd = -1
        while self.stopped:
            call = self.stopped.pop()[2]
            if call >= 0:
                os.close(call)
        if self.running:
            self.door.admit()

    def _readable(self):
        try:
            message = wire.receive(self.connection)
        except wire.Closed:
            self._drop()
            return
        self.log.append(message)
        fault = next((f for f in self.faults if f.matches(message)), None)
        action = fault.action if fault else None
        if action == "call":
            fault.call()
        if action == "close" or not self.connection:
            self._close_fds(message)
            self._drop()
            return
        reply = self._handle(message, refuse=action == "nack")
        if action == "closed":
            self._drop()
        elif action == "alter":
            reply = fault.alter(reply)
        if reply and self.connection and action != "silent":
            try:
                reply.send(self.connection)
            except (BrokenPipeError, ConnectionResetError):
                self._drop()
        if reply:
            self._close_fds(reply)

    def _handle(self, message, refuse=False):
        """Does what the message says; the answer to send, if any."""
        breaches = violations(message, self._judged_protocol())
        self.violations += breaches
        handler = getattr(self, "on_" + message.name.lower(), None)
        payload, status, fds = None, 0, []
        try:
            if refuse or breaches or not handler:
                raise Nack
            payload = handler(message)
            if isinstance(payload, tuple):
                payload, fds = payload
        except Nack:
            if message.id in TYPED:
                raise Drop from None  # no answer could say no: rust-vmm ends the connection
            status = 1
        finally:
            self._close_fds(message)
        if payload is None:
            if not message.flags & wire.NEED_REPLY or not self.acked_protocol & wire.P_REPLY_ACK:
                return None
            payload = wire.u64(status)
        return Message(message.id, wire.VERSION | wire.REPLY, payload, fds)

    def _judged_protocol(self):
        """Before SET_PROTOCOL_FEATURES, what was offered; a migration's destination skips GET."""
        return self.acked_protocol if self.acked_protocol else self.protocol

    @staticmethod
    def _close_fds(message):
        for fd in message.fds:
            os.close(fd)
        message.fds = [-1] * len(message.fds)  # the number is still of interest

    @property
    def event_idx(self):
        return bool(self.acked & wire.F_EVENT_IDX)

    @property
    def packed(self):
        return bool(self.acked & wire.F_PACKED)

    def breach(self, text):
        self.violations.append(text)

    def queue(self, index):
        if index >= len(self.queues):
            self.breach(f"queue index {index}")
            raise Nack
        return self.queues[index]

    # Handlers: what each message does. They return a typed reply's payload, or None.

    def on_get_features(self, _):
        return wire.u64(self.features)

    def on_set_features(self, message):
        value = message.u64()
        if value & ~self.features:
            self.breach(f"SET_FEATURES: {value & ~self.features:#x} was not offered")
            raise Nack
        self.acked = value
        if not value & wire.F_PROTOCOL:
            for queue in self.queues:
                queue.enabled = True

    def on_set_owner(self, _):
        pass

    def on_get_protocol_features(self, _):
        return wire.u64(self.protocol)

    def on_set_protocol_features(self, message):
        value = message.u64()
        if value & ~self.protocol:
            self.breach(f"SET_PROTOCOL_FEATURES: {value & ~self.protocol:#x} was not offered")
        self.acked_protocol = value

    def on_get_queue_num(self, _):
        return wire.u64(len(self.queues))  # this session's: queue_num may change for the next one

    def on_get_max_mem_slots(self, _):
        return wire.u64(self.slots)

    def on_set_mem_table(self, message):
        count = wire.MEM_HEADER.unpack_from(message.payload)[0]
        memory = DeviceMemory()
        for position in range(count):
            region = wire.MEM_REGION.unpack_from(message.payload, 8 + 32 * position)
            self.add_region(memory, region, message.fds[position])
        self.use_memory(memory)

    def on_add_mem_reg(self, message):
        region = wire.MEM_REGION.unpack_from(message.payload, 8)
        self.add_region(self.memory, region, message.fds[0])
        self.use_memory(self.memory)

    def add_region(self, memory, region, fd):
        memory.add(*region, fd)
        if self.keep_memory:
            self.memory_fds.append((region[0], os.dup(fd)))

    def on_rem_mem_reg(self, message):
        gpa, size, uaddr, _ = wire.MEM_REGION.unpack_from(message.payload, 8)
        if not self.memory.remove(gpa, size, uaddr):
            self.breach(f"REM_MEM_REG of an unknown region {gpa:#x}")
            raise Nack
        self.use_memory(self.memory)

    def use_memory(self, memory):
        regions = sorted(region[:3] for region in memory.regions)
        for low, high in zip(regions, regions[1:]):
            if low[0] + low[1] > high[0]:
                self.breach(f"memory regions overlap: {low[0]:#x} and {high[0]:#x}")
        if len(regions) > self.max_regions:
            self.breach(f"{len(regions)} memory regions")
        self.memory = memory
        for queue in self.queues:
            if queue.ring:
                queue.ring.bind(memory)

    def on_set_vring_num(self, message):
        index, num = wire.VRING_STATE.unpack(message.payload)
        if num == 0 or num > 32768 or (num & (num - 1) and not self.packed):
            self.breach(f"ring size {num}")
        self.queue(index).num = num

    def on_set_vring_addr(self, message):
        index, flags, desc, used, avail, log = wire.VRING_ADDR.unpack(message.payload)
        queue = self.queue(index)
        if desc % 16 or avail % (4 if self.packed else 2) or used % 4:
            self.breach("SET_VRING_ADDR: alignment")
        if flags & ~1 or (flags and not self.features & wire.F_LOG_ALL):
            self.breach(f"SET_VRING_ADDR: flags {flags:#x}")
        if queue.ring:
            # Only the logging of a running ring may change.
            if queue.addr != (desc, used, avail):
                self.breach("SET_VRING_ADDR: a running ring's addresses change")
            queue.ring.used_gpa = log if flags & 1 else None
        least = 4 if self.packed else 6
        for start, length in ((desc, 16), (avail, least), (used, least)):
            try:
                self.memory.by_uaddr(start, length)
            except Translation as error:
                self.breach(f"SET_VRING_ADDR: {error}")
                raise Nack from error
        queue.addr, queue.flags, queue.log_gpa = (desc, used, avail), flags, log

    def on_set_vring_base(self, message):
        index, base = wire.VRING_STATE.unpack(message.payload)
        queue = self.queue(index)
        if base > 0xFFFF and not self.packed:
            self.breach(f"SET_VRING_BASE: {base:#x}")
        if self.packed and queue.num and (base & 0x7FFF >= queue.num
                                          or base >> 16 & 0x7FFF >= queue.num):
            self.breach(f"SET_VRING_BASE: {base:#x} in a ring of {queue.num}")
        queue.base, queue.stopped = base, None

    def on_get_vring_base(self, message):
        index, _ = wire.VRING_STATE.unpack(message.payload)
        return wire.vring_state(index, self.queue(index).stop())

    def take_fd(self, message, name):
        queue = self.queue(message.u64() & 0xFF)
        fd = message.fds.pop() if message.fds else -1
        if name == "kick" and fd >= 0:
            os.set_blocking(fd, False)
        queue.set_fd(name, fd)
        return queue

    def on_set_vring_kick(self, message):
        queue = self.queue(message.u64() & 0xFF)
        if queue.addr is None or not queue.num:
            self.breach("SET_VRING_KICK before the ring is described")
            raise Nack
        queue = self.take_fd(message, "kick")
        if queue.ring:
            queue.watch()  # another kick for a ring that runs
        else:
            queue.start()

    def on_set_vring_call(self, message):
        """Signalled at once, as libvhost-user does: what went to the old one may not be seen."""
        queue = self.take_fd(message, "call")
        if queue.call >= 0 and queue.ring:
            os.eventfd_write(queue.call, 1)

    def on_set_vring_err(self, message):
        self.take_fd(message, "err")

    def on_set_vring_enable(self, message):
        index, enable = wire.VRING_STATE.unpack(message.payload)
        if not self.acked & wire.F_PROTOCOL and (enable or self.acked):
            self.breach("SET_VRING_ENABLE without bit 30")
        queue = self.queue(index)
        queue.enabled = bool(enable)
        queue.watch()

    def on_get_inflight_fd(self, message):
        payload, fd = answer_get(message, self.packed)
        return payload, [fd]

    def on_set_inflight_fd(self, message):
        if any(queue.ring for queue in self.queues):
            self.breach("SET_INFLIGHT_FD while rings run")
        self.inflight = InflightMemory.of(message)

    def on_get_config(self, message):
        offset, size, flags = wire.CONFIG.unpack_from(message.payload)
        if offset + size > len(self.config):
            return b""
        return wire.config(offset, size, flags, bytes(self.config[offset : offset + size]))

    def on_set_config(self, message):
        offset, size, _ = wire.CONFIG.unpack_from(message.payload)
        self.config[offset : offset + size] = message.payload[wire.CONFIG.size :]

    def on_set_log_base(self, message):
        size, offset = wire.LOG.unpack(message.payload)
        self.dirty_log = LogWriter(message.fds[0], size, offset)
        for queue in self.queues:
            if queue.ring:
                queue.ring.log = self.dirty_log
        return message.payload

    def on_reset_device(self, _):
        for queue in self.queues:
            queue.close()
            queue.enabled = False

    on_reset_owner = on_reset_device

    def on_set_status(self, message):
        self.status = message.u64()

    def on_get_status(self, _):
        return wire.u64(self.status)

    def on_net_set_mtu(self, message):
        self.mtu = message.u64()

    def on_send_rarp(self, message):
        self.rarp = message.payload

    def on_set_backend_req_fd(self, message):
        if self.requests:
            self.requests.close()
        self.requests = socket.socket(fileno=message.fds.pop())

    # Device state: the whole state is written, or read until its end.

    def on_set_device_state_fd(self, message):
        direction, phase = wire.DEVICE_STATE.unpack(message.payload)
        if any(queue.ring for queue in self.queues):
            self.breach("SET_DEVICE_STATE_FD while rings run")
        fd = message.fds.pop()
        if phase or direction > 1:
            os.close(fd)
            return wire.u64(1)
        if direction == 1:
            self.state_fd = fd
        else:
            os.set_blocking(fd, True)
            with os.fdopen(fd, "wb") as stream:
                stream.write(self.state)
        return wire.u64(wire.NO_FD)

    def on_check_device_state(self, _):
        if self.state_fd >= 0:
            os.set_blocking(self.state_fd, True)
            with os.fdopen(self.state_fd, "rb") as stream:
                self.loaded = stream.read()
            self.state_fd = -1
        return wire.u64(0)

    def request(self, id, payload=b"", flags=wire.VERSION):
        """Sends a request over the back-end channel; the ack when one is asked for."""

        def task():
            Message(id, flags, payload).send(self.requests)
            if not flags & wire.NEED_REPLY:
                return None
            self.requests.settimeout(5)
            return wire.receive(self.requests)

        return self.run(task)
