"""The guest's kernel: Debian's cloud kernel, fetched as a package and unpacked, never installed.

The 6.1 cloud kernel reaches an init shell under TCG in three seconds; the generic one takes nine.
"""

import fcntl
import glob
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

META_PACKAGE = "linux-image-cloud-amd64"


class Unavailable(Exception):
    """Something this machine truly cannot provide; tests skip with the text."""


def cache_folder():
    base = os.environ.get("SVQ_CACHE")
    if not base:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        base = os.path.join(home, "shadowvq")
    os.makedirs(base, exist_ok=True)
    return base


def _run(argv, **options):
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(argv)}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _download(folder):
    depends = _run(["apt-cache", "depends", META_PACKAGE])
    found = re.search(r"Depends: (linux-image-6\.1\S+)", depends)
    if not found:
        raise Unavailable(f"apt-cache names no 6.1 kernel behind {META_PACKAGE}: {depends!r}")
    scratch = tempfile.mkdtemp(prefix="fetch-", dir=folder)
    try:
        _run(["apt-get", "download", found.group(1)], cwd=scratch)
        (package,) = glob.glob(scratch + "/*.deb")
        root = scratch + "/root"
        _run(["dpkg", "-x", package, root])
        (modules,) = glob.glob(root + "/lib/modules/*")
        _run([shutil.which("depmod") or "/sbin/depmod", "-b", root, os.path.basename(modules)])
        os.rename(root, os.path.join(folder, found.group(1)))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class Kernel:
    """An unpacked kernel package: .image and the modules' dependency order."""

    def __init__(self):
        folder = cache_folder()
        pattern = os.path.join(folder, "linux-image-6.1.*")
        with open(os.path.join(folder, "lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not any(map(os.path.isdir, glob.glob(pattern))):
                _download(folder)
        self.root = Path(sorted(filter(os.path.isdir, glob.glob(pattern)))[-1])
        (self.image,) = self.root.glob("boot/vmlinuz-*")
        (self.modules,) = self.root.glob("lib/modules/*")

    def module_files(self, names):
        """The files to load for the named modules, dependencies first; built-in ones need none."""
        table = {}
        for line in (self.modules / "modules.dep").read_text().splitlines():
            file, depends = line.split(":", 1)
            table[self._name(file)] = (file, depends.split())
        builtin = {self._name(f) for f in (self.modules / "modules.builtin").read_text().split()}
        order = []
        for name in names:
            if name not in table:
                if name not in builtin:
                    raise Unavailable(f"kernel {self.root.name} has no module {name}")
                continue
            file, depends = table[name]
            for wanted in [*reversed(depends), file]:
                if wanted not in order:
                    order.append(wanted)
        return [self.modules / file for file in order]

    @staticmethod
    def _name(file):
        return os.path.basename(file).split(".ko")[0].replace("-", "_")
