"""How programs are compiled."""

import jax
import jax.numpy as jnp
import pytest

from fip_jax import compiled


def convolve(inputs, kernel):
    return jax.lax.conv_general_dilated(
        inputs, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_the_flag_is_taken_and_leaves_convolutions_to_eigen():
    assert compiled.is_flag(f"--{'='.join(compiled.YNNPACK)}")
    shapes = jnp.ones((64, 32, 32, 32)), jnp.ones((3, 3, 32, 32))
    options = dict([compiled.YNNPACK])
    program = jax.jit(convolve, compiler_options=options).lower(*shapes).compile().as_text()
    assert "convolution(" in program
    assert "ynn_fusion" not in program


@pytest.mark.parametrize("flag", ["--xla_cpu_no_such_flag=false", f"--{compiled.YNNPACK[0]}=NO_SUCH_TYPE"])
def test_a_flag_that_xla_would_end_the_process_for_is_none(flag):
    assert not compiled.is_flag(flag)


@pytest.mark.parametrize(
    ("known", "before", "expected"),
    [
        (True, None, f"--{compiled.YNNPACK[0]}={compiled.YNNPACK[1]}"),
        (True, "--a=1", f"--a=1 --{compiled.YNNPACK[0]}={compiled.YNNPACK[1]}"),
        (True, f"--{compiled.YNNPACK[0]}=", f"--{compiled.YNNPACK[0]}="),
        (False, "--a=1", "--a=1"),
    ],
)
def test_flags_are_added_where_nobody_chose(monkeypatch, known, before, expected):
    monkeypatch.setattr(compiled, "is_flag", lambda flag: known)
    monkeypatch.setenv("XLA_FLAGS", before or "")
    if before is None:
        monkeypatch.delenv("XLA_FLAGS")
    compiled.spread_convolutions()
    assert compiled.os.environ["XLA_FLAGS"] == expected


def test_little_effort_leaves_out_what_xla_does_not_know_and_changes_no_result(monkeypatch):
    monkeypatch.setattr(compiled, "LITTLE_EFFORT", compiled.LITTLE_EFFORT | {"xla_cpu_no_such_option": 1})
    options = compiled.with_little_effort("cpu")
    emitters = "xla_cpu_use_fusion_emitters"
    assert (emitters in options) == compiled.is_flag(f"--{emitters}=false")
    assert options.keys() - {emitters} == {"xla_backend_optimization_level"}
    shapes = jnp.ones((4, 8, 8, 3)), jnp.ones((3, 3, 3, 2))
    found = jax.jit(convolve, compiler_options=options)(*shapes)
    assert jnp.allclose(found, convolve(*shapes))


def test_all_effort_goes_into_programs_for_other_platforms():
    assert compiled.with_little_effort("gpu") is compiled.with_little_effort("tpu") is None


def test_an_option_that_xla_knows_with_another_kind_of_value_is_no_unknown_one():
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_backend_optimization_level"):
        compiled.is_option("xla_backend_optimization_level", "much")
