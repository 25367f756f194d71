"""How programs are compiled."""

import jax
import jax.numpy as jnp
import jaxlib
import pytest

from fip_jax import compiled


def convolve(inputs, kernel):
    return jax.lax.conv_general_dilated(
        inputs, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_this_jaxlib_knows_the_flag_and_leaves_convolutions_to_eigen():
    if not jaxlib.__version__.startswith(compiled.TRIED_WITH):
        pytest.skip(f"not tried with jaxlib {jaxlib.__version__}")
    shapes = jnp.ones((64, 32, 32, 32)), jnp.ones((3, 3, 32, 32))
    options = dict([compiled.YNNPACK])
    program = jax.jit(convolve, compiler_options=options).lower(*shapes).compile().as_text()
    assert "convolution(" in program
    assert "ynn_fusion" not in program


@pytest.mark.parametrize(
    ("version", "before", "expected"),
    [
        ("0.10.2", None, f"--{compiled.YNNPACK[0]}={compiled.YNNPACK[1]}"),
        ("0.10.2", "--a=1", f"--a=1 --{compiled.YNNPACK[0]}={compiled.YNNPACK[1]}"),
        ("0.10.2", f"--{compiled.YNNPACK[0]}=", f"--{compiled.YNNPACK[0]}="),
        ("0.99.0", "--a=1", "--a=1"),  # may not know it
    ],
)
def test_flags_are_added_where_nobody_chose(monkeypatch, version, before, expected):
    monkeypatch.setattr(jaxlib, "__version__", version)
    monkeypatch.setenv("XLA_FLAGS", before or "")
    if before is None:
        monkeypatch.delenv("XLA_FLAGS")
    compiled.spread_convolutions()
    assert compiled.os.environ["XLA_FLAGS"] == expected


def test_little_effort_is_known_to_this_jaxlib_and_changes_no_result(monkeypatch):
    options = compiled.with_little_effort()
    assert (options is not None) == jaxlib.__version__.startswith(compiled.TRIED_WITH)
    shapes = jnp.ones((4, 8, 8, 3)), jnp.ones((3, 3, 3, 2))
    found = jax.jit(convolve, compiler_options=options)(*shapes)
    assert jnp.allclose(found, convolve(*shapes))
    monkeypatch.setattr(jaxlib, "__version__", "0.99.0")  # may not know them
    assert compiled.with_little_effort() is None
