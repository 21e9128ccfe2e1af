"""Shadow rings on pages of any kind: queues work, and what could not be had is said."""

import re

import pytest


def free_pages():
    with open("/proc/meminfo", encoding="ascii") as file:
        found = re.search(r"^HugePages_Free: +(\d+)", file.read(), re.MULTILINE)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("pages", ["auto", "reserved", "off"])
def test_pages(bench, pages):
    # With tables, a ring of this size fills a huge page.
    made = bench(shadow="on", num=4096, arguments=["--huge-pages", pages])
    made.unit.io(64)
    warning = "no reserved huge pages for shadow rings"
    if pages == "reserved" and free_pages() == 0:
        made.svqd.wait_log(warning)
    elif pages != "reserved":
        assert warning not in made.svqd.log()
