"""What /proc tells about a process: I/O, CPU time, context switches, open files."""

import os
from pathlib import Path


def _io(pid):
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return {key: int(value) for key, value in (line.split(": ") for line in lines)}


def io_bytes(pid):
    """Bytes the process passed to read- and write-like system calls."""
    return (io := _io(pid))["rchar"] + io["wchar"]


def io_calls(pid):
    """How many read- and write-like system calls the process made."""
    return (io := _io(pid))["syscr"] + io["syscw"]


def children(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def open_files(pid):
    """The process's file descriptors: number -> what it is."""
    folder = f"/proc/{pid}/fd"
    files = {}
    for fd in os.listdir(folder):
        try:
            files[int(fd)] = os.readlink(f"{folder}/{fd}")
        except FileNotFoundError:
            continue
    return files


class Activity:
    """One sample of all threads: CPU ticks (of 10 ms), context switches, asleep or not."""

    def __init__(self, pid):
        self.threads = {}
        for task in sorted(os.listdir(f"/proc/{pid}/task")):
            folder = Path(f"/proc/{pid}/task/{task}")
            # The name in parentheses may hold spaces; the fields after it do not.
            stat = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            switches = {}
            for line in (folder / "status").read_text().splitlines():
                if "ctxt_switches" in line:
                    key, value = line.split(":")
                    switches[key] = int(value)
            self.threads[int(task)] = {
                "name": (folder / "comm").read_text().strip(),
                "ticks": int(stat[11]) + int(stat[12]),
                "voluntary": switches["voluntary_ctxt_switches"],
                "asleep": stat[0] == "S",
            }

    def since(self, earlier):
        """Per thread: what was added since the earlier sample."""
        zero = {"ticks": 0, "voluntary": 0}
        return {
            task: {
                "name": now["name"],
                "ticks": now["ticks"] - earlier.threads.get(task, zero)["ticks"],
                "voluntary": now["voluntary"] - earlier.threads.get(task, zero)["voluntary"],
            }
            for task, now in self.threads.items()
        }
