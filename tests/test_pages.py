"""Large pages: asked for once, and not where somebody has asked for something else."""

import os
import subprocess
import sys

import pytest
from small_runs import ROOT

CODE = """if True:
    import os, sys
    from fip_jax.pages import ask_for_large_pages
    print("started", flush=True)
    ask_for_large_pages()
    print(os.environ["GLIBC_TUNABLES"], sys.argv[1:])"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is the C library of Linux alone")
@pytest.mark.parametrize(
    ("before", "starts", "after"),
    [
        ({}, 2, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=0"}, 1, "glibc.malloc.check=0"),
    ],
)
def test_the_program_starts_anew_at_most_once(before, starts, after):
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"} | before
    found = subprocess.run(
        [sys.executable, "-c", CODE, "--flag=a b"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=True,
    )
    assert found.stdout.splitlines() == ["started"] * starts + [f"{after} ['--flag=a b']"]
