"""From a file of weights to the network that they are of."""

from typing import Any

from fip_jax.errors import UserError
from fip_jax.interop import chain, onnx_graph
from fip_jax.interop.foreign import Foreign
from fip_jax.interop.onnx_file import OnnxFile
from fip_jax.interop.recognise import recognise
from fip_jax.interop.signatures import published_name
from fip_jax.models.graph import tensor_names, transposed
from fip_jax.progress import console


def identified(source: Foreign, size: int, words: str) -> tuple[Foreign, str, dict[str, Any]]:
    """Which network is in a file: the graph in it, one that words tell, or one that is known by its tensors.

    Args:
      source: the file.
      size: height and width in pixels of its images.
      words: of a state dict, its layers and what lies between them (see `chain.py`), or "".

    Returns:
      (the file with our names for its tensors, name of the network, its arguments with `num_classes`).

    Raises:
      UserError: none that is known, or the words do not fit.
    """
    if isinstance(source.source, OnnxFile):
        return _as_graph(source, onnx_graph.to_graph(source.path, source.source, size))
    shapes = {name: array.shape for name, array in source.network().items()}
    example = chain.of_examples(shapes)
    if words or example:
        graph, channels = chain.to_graph(words or example, shapes)
        if not words:
            console.print(f"{source.path}: an example of PyTorch's: {example}", markup=False)
        return _as_graph(source, onnx_graph.checked(source.path, graph, channels, size))
    try:
        name, options, names = recognise(shapes, size)
    except UserError as error:
        raise UserError(f"{source.path}: {error}{_way_out(shapes, size)}") from error
    return source.named(names), name, dict(options)


def _as_graph(source: Foreign, found: onnx_graph.Found) -> tuple[Foreign, str, dict[str, Any]]:
    names, turned = tensor_names(found.graph), transposed(found.graph)
    options = {
        "width": 1,
        "graph": found.graph.to_text(),
        "channels": found.channels,
        "num_classes": found.num_classes,
    }
    return source.named(names)._replace(transposed=turned), "graph", options


def _way_out(shapes: dict[str, tuple[int, ...]], image_size: int) -> str:
    """The end of the refusal of a network that is not known: what it is, or how its owner can say what it does."""
    name = published_name(shapes)
    if name:
        return f"; this is {name}: export it to ONNX (torch.onnx.export) and give that file"
    words = chain.suggestion(shapes, image_size)
    if words:
        return (
            "; a state dict does not tell what lies between its layers: say it with model.layers, perhaps "
            f'"{words[:400]}", or export the network to ONNX'
        )
    return "; export the network to ONNX (torch.onnx.export) and give that file"
