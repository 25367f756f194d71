"""What a file is that is no file of weights, by how it begins and what is in it, and what to do with it."""

import io
import json
import zipfile
from pathlib import Path

from fip_jax.errors import UserError

HEAD = 512  # bytes that kinds are told by

_KERAS = "convert it to ONNX where it was made (python -m tf2onnx.convert --keras FILE --output x.onnx) and give that"
_UNPACK = "unpack it and give the file of weights in it"
_TORCH = "load it where you trust it, save its state_dict() with torch.save and give that"
# (first bytes, what it is, the way out)
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", "HDF5, perhaps of Keras", _KERAS),
    (
        b"version https://git-lfs",
        "a Git LFS pointer in the place of the file",
        "fetch the file with git lfs pull",
    ),
    (b"\x89PNG", "a picture", "give the network as victim.checkpoint, and a trigger as attack.pattern.file"),
    (
        b"\xff\xd8\xff",
        "a picture",
        "give the network as victim.checkpoint, and a trigger as attack.pattern.file",
    ),
    (b"\x93NUMPY", "a NumPy array", "give the network as victim.checkpoint, and images as dataset.name"),
    (b"GGUF", "GGUF, a language model", "give an image classifier"),
    (b"GIF8", "a picture", "give the network as victim.checkpoint"),
    (b"%PDF", "a PDF document", "give the network as victim.checkpoint"),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ", "an xz archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a rar archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (b"MATLAB", "a MATLAB file", "save the weights as safetensors by the names of PyTorch's layers"),
    (b"\x7fELF", "a program", "give the network as victim.checkpoint"),
    (b"MZ", "a program", "give the network as victim.checkpoint"),
    (b"SQLite", "a data base", "give the network as victim.checkpoint"),
)
_EXPECTED = "expected one of PyTorch, safetensors or ONNX"
# First bytes of a dictionary with an entry or more; a pickle begins with 0x80.
_MSGPACK = (*range(0x81, 0x90), 0xDE, 0xDF)
# What a pickle refers to that is no state dict -> in words, and the way out.
_REFERENCES = (
    ("_rebuild_qtensor", "quantised weights", "give the network from before it was quantised"),
    ("_packed_params", "quantised weights", "give the network from before it was quantised"),
    ("sklearn.", "a model of scikit-learn", "give a neural network"),
    ("tensorflow", "a pickled model of TensorFlow", _KERAS),
    ("keras", "a pickled model of Keras", _KERAS),
    ("torch.storage._load_from_bytes", "tensors pickled without torch.save", _TORCH),
    ("joblib", "a file of joblib", "give a neural network"),
    ("fastai", "a fastai Learner", "save them there by torch.save(learn.model.state_dict(), FILE) and give that"),
    ("paddle", "a file of PaddlePaddle", "convert it to ONNX with paddle2onnx and give that"),
)  # fmt: skip


def check_kind(path: Path, head: bytes) -> None:
    """Refuses a file that begins as something else than a file of PyTorch does.

    Args:
      path: the file.
      head: its first `HEAD` bytes.

    Raises:
      UserError: what it is, and the way out.
    """
    if not head:
        raise _refusal(path, "an empty file", "download or copy it again")
    for magic, what, way in _MAGIC:
        if head.startswith(magic):
            raise _refusal(path, what, way)
    if head[4:8] == b"TFL3":
        raise _refusal(path, "TFLite, whose weights are folded and perhaps quantised", _KERAS)
    if head.lstrip()[:1] == b"<":
        raise _refusal(
            path,
            "text, perhaps a web page, in the place of the file",
            "download the file itself (on GitHub by 'Download raw file')",
        )
    if head[0] in _MSGPACK:
        raise _refusal(
            path,
            "msgpack, perhaps of Flax",
            "load it into its module and use fip_jax.purify_function or purify_network from Python",
        )
    if head[257:262] == b"ustar" and head[:1] != b"\x80":
        raise _refusal(path, "a tar archive", _UNPACK)
    _check_text(path, head)
    _check_protobuf(path, head)


def _check_text(path: Path, head: bytes) -> None:
    """Text that is no pickle of protocol 0, which is text as well, but ends with a dot and has no words in a row."""
    try:
        text = head.decode()
    except UnicodeDecodeError:
        return
    if any(ord(c) < 32 and c not in "\t\n\r" for c in text):
        return
    if text.lstrip()[:1] in "{[" and _is_json(path):
        raise _refusal(
            path,
            "JSON",
            "give the file of weights itself; an index of several files or a page of an error is not one",
        )
    if " " in text.split("\n")[0] or text.startswith(("import", "#", "from ")):
        raise _refusal(path, "text", "give the file of weights itself")


def _is_json(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            json.loads(file.read(1 << 20))
    except (ValueError, RecursionError):
        return False
    return True


def _check_protobuf(path: Path, head: bytes) -> None:
    """Graphs of TensorFlow and others, which are protobuf without a magic number."""
    if head[:1] == b"\x0a" and any(word in head for word in (b"Placeholder", b"Const", b"node")):
        raise _refusal(
            path,
            "a frozen graph of TensorFlow",
            "convert it to ONNX (python -m tf2onnx.convert --graphdef FILE ...) and give that",
        )
    if path.name == "saved_model.pb" or (head[:2] == b"\x08\x01" and b"saved_model" in head):
        raise _refusal(
            path,
            "a SavedModel of TensorFlow",
            "convert it to ONNX (python -m tf2onnx.convert --saved-model FOLDER ...) and give that",
        )


def explained(path: Path, head: bytes, error: UserError) -> UserError:
    """The refusal of a file that PyTorch's reader does not take, with the way out where more is known of it.

    Args:
      path: the file.
      head: its first `HEAD` bytes.
      error: what the reader said.
    """
    words = str(error)
    for part, what, way in _REFERENCES:
        if part in words:
            return _refusal(path, what, way)
    if head[:4] == b"PK\x03\x04":
        return _of_zip(path) or error
    if "found no pickle" in words and head[:1] != b"\x80":
        return _refusal(
            path,
            f"a file of an unknown kind ({head[:8].hex(' ')} at its beginning)",
            "save the network's state_dict() with torch.save, or export it to ONNX, and give that",
        )
    return error


def _of_zip(path: Path) -> UserError | None:
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            names = archive.namelist()
    except Exception:  # zipfile raises many types over damaged files
        return None
    if "config.json" in names and any(name.endswith(".weights.h5") for name in names):
        return _refusal(path, "a network of Keras (.keras)", _KERAS)
    if names and all(name.endswith(".npy") for name in names):
        return _refusal(
            path, "NumPy arrays (.npz)", "save them as safetensors by the names of PyTorch's layers"
        )
    if any("constants.pkl" in name for name in names):
        return _refusal(
            path,
            "TorchScript without a network that is known here",
            "save torch.jit.load(FILE).state_dict() with torch.save, or export the network to ONNX, and give that",
        )
    weights = [
        name for name in names if name.endswith((".pth", ".pt", ".onnx", ".safetensors", ".th", ".h5"))
    ]
    if weights:
        return _refusal(path, f"a zip archive with {repr(weights[0][:80])[1:-1]}", _UNPACK)
    if not any(name.endswith("data.pkl") for name in names):
        return _refusal(path, "a zip archive without weights", "give the file of weights itself")
    return None


def _refusal(path: Path, what: str, way: str) -> UserError:
    return UserError(f"{path}: found {what}, {_EXPECTED}; {way}")
