"""An eventfd that is waited for, not slept for."""

import os
import select


class EventFd:
    def __init__(self):
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def signal(self):
        os.eventfd_write(self.fd, 1)

    def take(self):
        """The count since the last take, 0 if none."""
        try:
            return os.eventfd_read(self.fd)
        except BlockingIOError:
            return 0

    def wait(self, seconds):
        """Waits for a signal and takes it; False when none came."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000)) and self.take() > 0

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
