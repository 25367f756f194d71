"""Large pages of memory, which a program on a CPU has to ask for at its start."""

import os
import sys

LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # for the environment of a process


def ask_for_large_pages() -> None:
    """Starts the program anew, with glibc's allocator told to take pages of 2 MiB, unless it has been told anything.

    A step takes and gives back a few hundred MiB, which at 4 KiB a page costs up to a third of its time. glibc reads
    this when it starts and never again. On Linux alone; another C library takes no notice.
    """
    if sys.platform == "linux" and not LARGE_PAGES.keys() & os.environ.keys():
        os.environ.update(LARGE_PAGES)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
