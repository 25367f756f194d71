"""A corpus of files that mean harm, and of files that are broken: `FILES`, by what is wrong with them."""

import io
import os
import pickle
import struct
import subprocess
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import safetensors.numpy
from torch_files import colliding_numbers, legacy, mapping, number, program, tensor, text, zipped

# Of this process, since tests can run beside each other.
CANARY = Path(tempfile.gettempdir()) / f"fip_jax_canary_{os.getpid()}"
GOOD = program(mapping(net=mapping(a=tensor())))


class Reduce:
    """Pickles to a call."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def pickled(value, protocol=2):
    return pickle.dumps(value, protocol)


TOUCH = f"touch {CANARY}"
OPEN = f"open({str(CANARY)!r}, 'w')"
CALLS = {
    "os.system": pickled({"net": Reduce(os.system, TOUCH)}),
    "eval": pickled({"net": Reduce(eval, OPEN)}),
    "exec": pickled(Reduce(exec, OPEN)),
    "popen": pickled(Reduce(subprocess.Popen, ["touch", str(CANARY)])),
    "getattr": pickled(Reduce(getattr, Reduce(__import__, "os"), "system")),
    "open": pickled([Reduce(open, str(CANARY), "w")]),
    "as a key": pickled({Reduce(os.system, TOUCH): 1}),
    "stack global": pickled(Reduce(os.system, TOUCH), 4),
    "inst": b"(" + text(TOUCH) + b"ios\nsystem\n.",
    "obj": b"(cos\nsystem\n" + text(TOUCH) + b"o.",
    "newobj": b"\x80\x02cos\nsystem\n" + text(TOUCH) + b"\x85\x81.",
    "newobj_ex": b"\x80\x04cos\nsystem\n" + text(TOUCH) + b"\x85}\x92.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent text": b"P" + TOUCH.encode() + b"\n.",
    "build on a name": b"\x80\x02ccollections\nOrderedDict\n}" + text("__call__") + b"cos\nsystem\nsb.",
    "name with dots": b"\x80\x04" + text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93.",
    "a name on several lines": b"\x80\x04" + text("os\n\x1b[2J") + text("sys\r\u2028tem") + b"\x93.",
    "a module whole": b"\x80\x02c__main__\nNet\n)\x81}b.",
}
DEEP = colliding_numbers()
DEEP_MEMO = colliding_numbers(below=1 << 32)


def copies(function, value, count):
    """A value written once and given to a function many times: gigabytes, were all of them made."""
    return program(b"](" + value + b"q\x00" + function + b"q\x01" + b"h\x01h\x00\x85R" * count + b"e")


CENTRAL = b"PK\x01\x02"
MEMO = b"\x80\x02}r\xff\xff\xff\xff0h\x01."
PROGRAMS = CALLS | {
    "memo of 4 billion": MEMO,
    "text of 2**60 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"abc.",
    "bytes of 2**63 bytes": b"\x80\x04\x8e" + struct.pack("<Q", (1 << 63) - 1) + b"abc.",
    "number of 2**31 bytes": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"abc.",
    "number of 100,000 bytes": b"\x80\x02\x8b" + struct.pack("<i", 100_000) + b"\x7f" * 100_000 + b".",
    "a decimal of 100,000 digits": b"L" + b"9" * 100_000 + b"L\n.",
    "five million dictionaries": b"\x80\x02" + b"}" * 5_000_000 + b".",
    "five million marks": b"\x80\x02" + b"(" * 5_000_000 + b".",
    "keys that hash for ever": b"\x80\x02}" + b")" + b"2\x86" * 100 + b"K\x01s.",
    "keys that collide": program(
        b"}(" + b"".join(number(key) + b"N" for key in DEEP[0]) + (number(DEEP[1]) + b"N") * 200_000 + b"u"
    ),
    "stored values that collide": program(
        b"N" + b"".join(b"r" + struct.pack("<I", key) for key in [*DEEP_MEMO[0], *[DEEP_MEMO[1]] * 200_000])
    ),
    "copies of a list": copies(b"ctorch\nSize\n", b"](" + b"N" * 200_000 + b"e", 1_000),
    "copies of a set": copies(b"cbuiltins\nset\n", b"](" + b"N" * 200_000 + b"e", 1_000),
    "copies of a dictionary": copies(
        b"ccollections\nOrderedDict\n",
        b"(" + b"".join(number(n) + b"N\x86" for n in range(20_000)) + b"t",
        500,
    ),
    "copies of a text": program(
        text("x" * 1_000_000)
        + b"q\x00c_codecs\nencode\nq\x01"
        + text("latin1")
        + b"q\x02]("
        + b"h\x01h\x00h\x02\x86R" * 2_000
        + b"e\x87\x86"
    ),
    "a long key for many dictionaries": program(
        text("x" * 10_000_000) + b"q\x00](" + b"}h\x00Ns" * 1_000 + b"e\x86"
    ),
    "depth of 200,000": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "itself": b"\x80\x02}q\x00" + text("net") + b"h\x00s.",
    "a list of itself": b"\x80\x02]q\x00h\x00a.",
    "no end": b"\x80\x02}",
    "nothing to pop": b"\x80\x020.",
    "unfinished": b"\x80\x02(}.",
    "persistent number": b"\x80\x02K\x01Q.",
    "absurd shape": program(mapping(a=tensor(shape=(10**9, 10**9), strides=(1, 1)))),
    "numbers used twice": program(mapping(a=tensor(shape=(4, 3), strides=(0, 1)))),
    "stride 0": program(mapping(a=tensor(shape=(10**6, 10**6), strides=(0, 0)))),
    "shape beyond 64 bits": program(mapping(a=tensor(shape=(2**64 - 1, 2**64), strides=(1, 1)))),
    "negative shape": program(mapping(a=tensor(shape=(-2, -3)))),
    "negative stride": program(mapping(a=tensor(strides=(-3, 1)))),
    "negative offset": program(mapping(a=tensor(offset=-1))),
    "beyond its storage": program(mapping(a=tensor(offset=1))),
    "strides beyond its storage": program(mapping(a=tensor(strides=(4, 1)))),
    "storage of another length": program(mapping(a=tensor(total=7))),
    "huge storage": program(mapping(a=tensor(total=10**12))),
    "no such storage": program(mapping(a=tensor(key="9"))),
    "storage of complex numbers": program(mapping(a=tensor(kind="ComplexFloatStorage"))),
    "no numbers in an absurd shape": program(mapping(a=tensor(shape=(0, 2**62, 2**62), strides=(1, 1, 1)))),
    "no numbers in a shape beyond 64 bits": program(mapping(a=tensor(shape=(0, 2**63), strides=(1, 1)))),
    "one number with an absurd stride": program(mapping(a=tensor(shape=(1,), strides=(2**62,)))),
    "one number with a stride beyond 64 bits": program(mapping(a=tensor(shape=(1,), strides=(2**64 - 1,)))),
    "a hundred dimensions": program(mapping(a=tensor(shape=(1,) * 100, strides=(1,) * 100))),
    "weights of text": program(mapping(net=mapping(a=tensor(), b=text("x")))),
    "a list": program(b"]" + tensor() + b"a"),
    "a number": program(number(5)),
    "something after the pickle": GOOD + CALLS["os.system"],
}


def overlapping():
    """A zip whose directory lists one entry a thousand times."""
    whole = zipped(GOOD, [("0", bytes(1 << 16))])
    archive = zipfile.ZipFile(io.BytesIO(whole))
    start, end = archive.start_dir, whole.rindex(b"PK\x05\x06")
    directory = whole[start:end] * 1000
    tail = bytearray(whole[end:])
    struct.pack_into("<HHI", tail, 8, 2000, 2000, len(directory))
    return whole[:start] + directory + bytes(tail)


def doubled():
    """A zip with two entries of one name, of which programs that run pickles may take the other one."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")
        for name, data in (("data.pkl", CALLS["os.system"]), ("data.pkl", GOOD), ("data/0", bytes(24))):
            archive.writestr(f"archive/{name}", data)
    return file.getvalue()


def altered(data, find, offset, value):
    data = bytearray(data)
    at = data.index(find) + offset
    data[at : at + len(value)] = value
    return bytes(data)


def safetensors_with(header, body=bytes(24)):
    return struct.pack("<Q", len(header)) + header + body


def elsewhere(place):
    """A zip whose numbers are not between its other entries, but inside of its program or after its directory.

    With other numbers it would be another program, or another zip file for those who look for its end.
    """
    entry = zipfile.ZipFile(io.BytesIO(zipped(GOOD))).getinfo("archive/data/0")
    numbers = entry.FileHeader() + bytes(24)
    if place == "program":
        whole = zipped(GOOD[:-1] + b"B" + struct.pack("<I", len(numbers)) + numbers + b"0.")
        at = whole.index(numbers)
    else:
        whole = zipped(GOOD)
        at = len(whole)
        whole = whole[:-2] + struct.pack("<H", len(numbers)) + numbers
    second = 46 + len("archive/data.pkl")
    return altered(whole, CENTRAL, second + 42, struct.pack("<I", at))


def many_names(count=20_000, size=1 << 20):
    """Each name has all the numbers, so that looking at each would take hours."""
    names = b"".join(text(str(n)) + b"h\x00" for n in range(count))
    content = b"}(" + text("a") + tensor(total=size, shape=(size,), strides=(1,)) + b"q\x00" + names + b"u"
    return zipped(program(content), [("0", bytes(4 * size))])


WEIGHTS = {"a": np.arange(6, dtype=np.float32)}
FILES = {
    **{f"{name} (zip)": zipped(data) for name, data in PROGRAMS.items()},
    **{f"{name} (legacy)": legacy(data) for name, data in PROGRAMS.items() if len(data) < 1_000_000},
    "in the legacy system": legacy(GOOD, system=CALLS["os.system"]),
    "legacy of another protocol": legacy(GOOD).replace(b"M\xe9\x03", b"M\xe8\x03", 1),
    "big-endian legacy": legacy(GOOD, system={"little_endian": False}),
    "big-endian zip": zipped(GOOD, extra=[("archive/byteorder", b"big")]),
    "legacy that claims more": legacy(GOOD, counts=[10**15]),
    "legacy that claims less than nothing": legacy(GOOD, counts=[-1]),
    "a second pickle": pickled(1) + CALLS["os.system"],
    "zip bomb": zipped(GOOD, [("0", bytes(1 << 26))], zipfile.ZIP_DEFLATED),
    "overlapping entries": overlapping(),
    "zip entry that claims more": altered(zipped(GOOD), CENTRAL, 20, struct.pack("<II", 1 << 30, 1 << 30)),
    "zip entry elsewhere": altered(zipped(GOOD), CENTRAL, 42, struct.pack("<I", 0x7FFFFFF0)),
    "zip entry with other content": zipped(GOOD, [("0", b"\x01" * 24)]).replace(b"\x01" * 24, b"\x02" * 24),
    "two entries of one name": doubled(),
    "two pickles": zipped(GOOD, extra=[("other/data.pkl", CALLS["os.system"])]),
    "numbers inside of the program": elsewhere("program"),
    "numbers after the directory": elsewhere("comment"),
    "names for the same numbers": many_names(),
    "a checksum after the entry that is not there": altered(zipped(GOOD), b"PK\x03\x04", 6, b"\x08"),
    "a checksum before the entry that is wrong": altered(zipped(GOOD), b"PK\x03\x04", 14, b"abcd"),
    "something after the numbers": legacy(GOOD) + CALLS["os.system"],
    "a magic number after a million dictionaries": b"\x80\x02" + b"}0" * 1_000_000 + legacy(GOOD)[2:],
    "zip without a pickle": zipped(GOOD).replace(b"data.pkl", b"data.pkx"),
    "TorchScript": zipped(GOOD, extra=[("archive/constants.pkl", b"")]),
    "not a number": zipped(GOOD, [("0", np.full(6, np.nan, "<f4").tobytes())]),
    "not a number, and a name on several lines": zipped(
        program(b"}" + text("a\n\x1b[2J" * 10_000) + tensor() + b"s"),
        [("0", np.full(6, np.nan, "<f4").tobytes())],
    ),
    "infinite in float32": zipped(
        program(mapping(a=tensor(kind="DoubleStorage"))), [("0", np.full(6, 1e300).tobytes())]
    ),
    "infinite": zipped(GOOD, [("0", np.full(6, np.inf, "<f4").tobytes())]),
    "a name beyond text": zipped(program(b"}" + b"X\x03\x00\x00\x00\xed\xa0\x80" + tensor() + b"s")),
    "a name that clears the screen": zipped(program(mapping(**{"a\x1b[2J": tensor()}))),
    "a name of a million layers": zipped(program(mapping(**{"a." * 1_000_000: tensor()}))),
    "msgpack": b"\x81\xa6params\x81\xa1a\x01",
    "web page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "JSON": b'{"message": "Not Found"}',
    "empty": b"",
    "zeros": bytes(4096),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "another zip": zipped(GOOD).replace(b"archive/", b"notthis/").replace(b"data.pkl", b"data.txt"),
    "safetensors cut short": safetensors.numpy.save(WEIGHTS)[:-1],
    "safetensors header of 2**60": struct.pack("<Q", 1 << 60) + b"{}",
    "safetensors that are no JSON": safetensors_with(b"{ hello }"),
    "safetensors without tensors": safetensors_with(b"{}", b""),
    "safetensors beyond the file": safetensors_with(
        b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'
    ),
    "safetensors of another length": safetensors_with(
        b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,24]}}'
    ),
    "safetensors with a name on several lines": safetensors_with(
        b'{"a\\n\\u001b[2J":{"dtype":"F32","shape":[9],"data_offsets":[0,24]}}'
    ),
    "safetensors of an unknown type": safetensors_with(
        b'{"a":{"dtype":"F\\n32","shape":[6],"data_offsets":[0,24]}}'
    ),
    "safetensors that overlap": safetensors_with(
        b'{"a":{"dtype":"F32","shape":[6],"data_offsets":[0,24]},"b":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}}'
    ),
    "safetensors with a hole": safetensors_with(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[16,24]}}'),
    "safetensors of absurd shape": safetensors_with(
        b'{"a":{"dtype":"F32","shape":[0,4611686018427387904,8],"data_offsets":[0,0]}}', b""
    ),
    "safetensors of deep JSON": safetensors_with(b'{"a":' + b"[" * 100_000),
    "safetensors that are not numbers": safetensors.numpy.save({"a": np.full(3, np.nan, np.float32)}),
}


def two_directories():
    """Two networks in one zip: `zipfile` finds the one with ones by its directory's length, PyTorch the one with twos.

    `zipfile` takes what lies before the directory it found for something else, and adds its length to every offset.
    """
    entries, directories = [], []
    for value in (2, 1):
        whole = zipped(GOOD, [("0", np.full(6, value, "<f4").tobytes())])
        start, end = zipfile.ZipFile(io.BytesIO(whole)).start_dir, whole.rindex(b"PK\x05\x06")
        entries.append(whole[:start])
        directories.append(bytearray(whole[start:end]))
    tail = bytearray(whole[end:])
    size = len(directories[1])
    for record in (0, directories[1].rindex(CENTRAL)):
        (offset,) = struct.unpack_from("<I", directories[1], record + 42)
        struct.pack_into("<I", directories[1], record + 42, len(entries[0]) + offset - size)
    struct.pack_into("<II", tail, 12, size, len(entries[0]) + len(entries[1]))
    return b"".join([*entries, *directories, tail])


def with_locator(offset):
    """A zip with the records of large files, as PyTorch writes them, whose locator says that they are `offset` on."""
    whole = zipped(GOOD)
    end = whole.rindex(b"PK\x05\x06")
    count, size, start = struct.unpack_from("<10xHII", whole, end)
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    return whole[:end] + record + struct.pack("<4sIQI", b"PK\x06\x07", 0, end + offset, 1) + whole[end:]


def part(name, first=0, size=6):
    return b"(" + text(name) + number(first) + number(size) + b"t"


def renamed(data, old, new):
    assert len(old) == len(new)
    return data.replace(old, new)


def beginning_as_a_tar(data):
    """Its first 512 bytes as a tar header: some text with a checksum, inside of the first pickle."""
    filler = bytearray(b"\x80\x02B" + struct.pack("<I", 600) + bytes(600) + b"0")
    filler[257:263] = b"ustar\x00"
    total = sum(filler[:148]) + 8 * 32 + sum(filler[156:512])
    filler[148:156] = b"%06o\0 " % total
    return bytes(filler) + data[2:]


# What PyTorch would read other numbers from than `zipfile` or a plain reading of the pickle, by why it is refused.
AMBIGUOUS = {
    "more than one directory": two_directories(),
    "one directory (locator)": with_locator(-1),
    "with a comment": zipped(GOOD)[:-2] + b"\x03\x00abc",
    "two zip entries of one name": zipped(GOOD, extra=[("archive/DATA.PKL", CALLS["os.system"])]),
    "name is not ASCII": renamed(
        zipped(GOOD, extra=[("archive/data/1x", b"")]), b"archive/data/1x", b"archive/data/1\x00"
    ),
    "capitals are small letters": zipped(GOOD, extra=[("archive/BYTEORDER", b"big")]),
    "capitals are small letters (folder)": zipped(GOOD, extra=[("ARCHIVE/byteorder", b"big")]),
    "capitals are small letters (numbers)": zipped(GOOD, extra=[("archive/Data/1", b"")]),
    "where the end says 1": altered(zipped(GOOD), b"PK\x05\x06", 8, struct.pack("<HH", 1, 1)),
    "more than a network has": altered(zipped(GOOD), b"PK\x05\x06", 12, struct.pack("<I", 20_000_000)),
    "a storage of two types": zipped(program(mapping(a=tensor(), b=tensor(kind="IntStorage")))),
    "to be negated": zipped(
        program(mapping(a=tensor()[:-2] + mapping(neg=b"\x89") + tensor()[-2:])),
    ),
    "out of order": zipped(b"\x80\x04Nq\x010N\x940" + GOOD[2:]),
    "with the name of a storage": legacy(program(mapping(a=tensor(), b=tensor(view=part("0"))))),
    "two parts of storages of one name": legacy(
        program(mapping(a=tensor(view=part("v")), b=tensor(view=part("v", 1, 5), shape=(5,), strides=(1,))))
    ),
    "a tar file": beginning_as_a_tar(legacy(GOOD)),
}
