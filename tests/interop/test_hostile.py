"""Files that mean harm, and files that are broken: one sentence each, soon, in little memory, and nothing runs."""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hostile_files import AMBIGUOUS, CALLS, CANARY, DEEP, DEEP_MEMO, FILES, GOOD, WEIGHTS, with_locator
from torch_files import legacy, zipped

from fip_jax.errors import UserError
from fip_jax.interop.foreign import read


def refused(path):
    """The one sentence with which a file is refused; it takes less than ten seconds, mostly far less."""
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert time.monotonic() - start < 10
    assert message.isprintable()
    assert len(message) < 600
    assert str(path) in message
    return message


@pytest.mark.parametrize("name", FILES)
def test_bad_files_are_refused_in_one_sentence(name, tmp_path):
    (tmp_path / "bad.pth").write_bytes(FILES[name])
    message = refused(tmp_path / "bad.pth")
    assert not CANARY.exists()
    if name.split(" (")[0] in CALLS:
        assert "nothing in it was run" in message


@pytest.mark.parametrize("words", AMBIGUOUS)
def test_files_that_pytorch_reads_otherwise(words, tmp_path):
    (tmp_path / "bad.pth").write_bytes(AMBIGUOUS[words])
    assert words.split(" (")[0].removeprefix("one ") in refused(tmp_path / "bad.pth")


def test_records_of_large_files_where_they_belong(tmp_path):
    (tmp_path / "good.pth").write_bytes(with_locator(0))
    assert read(tmp_path / "good.pth").arrays["a"].shape == (2, 3)


def test_the_canary_sings():
    # What would have run does run where it is let: the tests above can fail.
    try:
        pickle.loads(CALLS["os.system"])
        assert CANARY.exists()
    finally:
        CANARY.unlink(missing_ok=True)


def test_things_that_are_no_files(tmp_path):
    refused(tmp_path)
    refused(tmp_path / "nowhere.pth")
    refused(Path("/dev/zero"))
    os.mkfifo(tmp_path / "pipe.pth")
    refused(tmp_path / "pipe.pth")


def test_files_that_claim_a_terabyte(tmp_path):
    with (tmp_path / "sparse.pth").open("wb") as file:
        file.write(zipped(GOOD))
        file.truncate(1 << 40)
    refused(tmp_path / "sparse.pth")


@pytest.mark.skipif(not Path("/proc/self/mem").is_file(), reason="needs a file that cannot be read")
def test_files_that_cannot_be_read():
    assert "Input/output error" in refused(Path("/proc/self/mem"))


def test_the_numbers_do_collide():
    # Where hashes are not random, the last of them takes thousands of times as long to find as the first.
    for keys, last in (DEEP, DEEP_MEMO):
        found = dict.fromkeys([*keys, last])

        def seconds(key, found=found):
            start = time.perf_counter()
            for _ in range(100):
                found[key] = 1
            return time.perf_counter() - start

        assert seconds(last) > 100 * seconds(keys[0])


@pytest.mark.parametrize("whole", [zipped(GOOD), legacy(GOOD)], ids=["zip", "legacy"])
def test_cut_short_anywhere(whole, tmp_path):
    (tmp_path / "bad.pth").write_bytes(whole)
    read(tmp_path / "bad.pth")
    for length in range(0, len(whole), 7):
        (tmp_path / "bad.pth").write_bytes(whole[:length])
        refused(tmp_path / "bad.pth")


FUZZED = {
    "zip": (zipped(GOOD), bytes),
    "legacy": (legacy(GOOD), bytes),
    # Its checksum is right, so that the pickle is read on.
    "pickle in a zip": (GOOD, zipped),
    "safetensors": (safetensors.numpy.save(WEIGHTS), bytes),
}


@pytest.mark.parametrize("kind", FUZZED)
def test_whatever_is_changed_is_read_or_refused(kind, tmp_path):
    whole, wrap = FUZZED[kind]
    rng = np.random.default_rng(0)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(600):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 5)):
            data[at] = rng.integers(0, 256)
        (tmp_path / "bad.pth").write_bytes(wrap(bytes(data)))
        try:
            found = read(tmp_path / "bad.pth")
        except UserError:
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        # What is read can be written, and what is written can be read.
        ones = {name: np.ones_like(array) for name, array in found.network().items()}
        (tmp_path / "good.pth").write_bytes(found.rewritten(found.with_network(ones)))
        again = read(tmp_path / "good.pth").arrays
        assert again.keys() == found.arrays.keys()
        assert all((array == 1).all() for array in again.values())
    assert min(outcomes.values()) > 0
    assert not CANARY.exists()


MEASURE = """
import re, resource, sys
from fip_jax.errors import UserError
from fip_jax.interop.foreign import read
from pathlib import Path

def peak():
    # Unlike ru_maxrss it does not begin with the peak of the process that started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
before = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read(path)
    except UserError:
        continue
    raise SystemExit(f"{path} was read")
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux to tell the memory")
def test_memory_is_bounded(tmp_path):
    for index, data in enumerate(FILES.values()):
        (tmp_path / f"{index}.pth").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", MEASURE, str(tmp_path), str(6 << 30)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert done.returncode == 0, done.stderr
    # KiB; three million empty dictionaries take 200,000.
    assert int(done.stdout) < 600_000
