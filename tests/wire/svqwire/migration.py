"""The copy that a migration makes of a guest's memory.

A VMM knows from its hypervisor what the guest wrote; that is everything here but the pages that
only the device writes: used rings and writable buffers. Those are copied when the log says so,
and the copy must equal the original page by page at the end. In a packed ring both write; there
the guest's descriptors count as known, one by one, and used descriptors must come from the log.
"""

from .dirtylog import pages_of
from .memory import PAGE, GuestMemory


class Copy:
    def __init__(self, guest):
        self.guest = guest
        memory = guest.memory
        self.pages = {}
        self.layout = [(r.gpa, r.size) for r in memory.regions]
        self.uaddr = memory.regions[0].uaddr - memory.regions[0].gpa

    def take(self, gpa):
        self.pages[gpa] = self.guest.memory.read(gpa, PAGE)

    def write(self, gpa, data):
        """Part of a page; `data` does not cross its end."""
        page, offset = gpa // PAGE * PAGE, gpa % PAGE
        old = self.pages[page]
        self.pages[page] = old[:offset] + data + old[offset + len(data) :]

    def everything(self):
        """The first round."""
        for gpa, page in self.guest.memory.pages():
            self.pages[gpa] = bytes(page)

    def dirty(self, pages):
        for gpa in pages:
            self.take(gpa)

    def device_pages(self):
        """The pages of the used rings and of every buffer a device ever wrote to."""
        pages = set()
        for queue in self.guest.queues:
            ring = queue.ring
            for gpa, length in ring.device_pages():
                pages |= pages_of(gpa, length)
            ring_buffers = ring.buffers["w"]
            for size, free in ring_buffers.free.items():
                for gpa in free:
                    pages |= set(range(gpa, gpa + size, PAGE))
            for chain in ring.outstanding.values():
                for gpa, length in chain.writable:
                    pages |= pages_of(gpa, length)
        return pages

    def finish(self):
        """The VM is stopped: copies what the guest wrote, then compares every page."""
        device = self.device_pages()
        for queue in self.guest.queues:
            for gpa, data in queue.ring.overlay():
                self.write(gpa, data)
        wrong = []
        for gpa, page in self.guest.memory.pages():
            if gpa not in device:
                self.take(gpa)
            elif self.pages[gpa] != page:
                wrong.append(hex(gpa))
        assert not wrong, f"{len(wrong)} pages differ, as {wrong[:8]}: written and never logged"


def follow(guest, copy):
    """The guest at the destination: the copied memory, and the driver's private state."""
    memory = GuestMemory(copy.layout, copy.uaddr)
    for gpa, page in copy.pages.items():
        memory.write(gpa, page)
    memory.next = dict(guest.memory.next)
    return guest.moved(memory)
