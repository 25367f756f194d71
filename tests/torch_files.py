"""Files as torch.save writes them, made without PyTorch: whole ones, and programs of our own choosing."""

import io
import pickle
import struct
import zipfile

import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(key="0", total=6, offset=0, shape=(2, 3), strides=(3, 1), kind="FloatStorage", view=b""):
    """Instructions for a tensor; `view` is the part of a storage that the oldest files have."""
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + text("storage")
        + f"ctorch\n{kind}\n".encode()
        + text(key)
        + text("cpu")
        + number(total)
        + view
        + b"tQ"
        + number(offset)
        + numbers(shape)
        + numbers(strides)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def mapping(**items):
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def program(value):
    return b"\x80\x02" + value + b"."


def zipped(data_pkl, storages=(("0", bytes(24)),), compression=zipfile.ZIP_STORED, extra=()):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data_pkl)
        for key, data in storages:
            archive.writestr(f"archive/data/{key}", data)
        for name, data in extra:
            archive.writestr(name, data)
    return file.getvalue()


NUMBERS = np.arange(6, dtype="<f4")


def legacy(data_pkl, storages=(("0", NUMBERS),), system=None, counts=None):
    """The container before PyTorch 1.6; `counts` are the lengths that it claims."""
    system = {"protocol_version": PROTOCOL, "little_endian": True} if system is None else system
    head = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL)]
    head.append(system if isinstance(system, bytes) else pickle.dumps(system, 2))
    keys = pickle.dumps([key for key, _ in storages], 2)
    counts = [len(array) for _, array in storages] if counts is None else counts
    body = [
        struct.pack("<q", count) + array.tobytes() for count, (_, array) in zip(counts, storages, strict=True)
    ]
    return b"".join([*head, data_pkl, keys, *body])


def colliding_numbers(size=17, count=80_000, below=1 << 60):
    """`count` numbers that fill a dictionary of 2**size slots, and one that is looked for in almost all of them.

    Numbers are their own hashes, and from a full slot i CPython goes on to 5 i + 1 + (the hash, shifted ever further).
    """
    slots, slot = [], 0
    for _ in range(count):
        slots.append(slot)
        slot = (5 * slot + 1) % (1 << size)
    place = np.full(1 << size, count)
    place[slots] = np.arange(count)
    keys = np.random.default_rng(0).integers(1 << size, below, 1 << 18)
    at, shifted, taken = keys % (1 << size), keys.copy(), np.ones(len(keys), bool)
    while shifted.any():
        taken &= place[at] < count
        shifted >>= 5
        at = (5 * at + shifted + 1) % (1 << size)
    order = np.where(taken, place[at], count)
    return slots, int(keys[order.argmin()])
