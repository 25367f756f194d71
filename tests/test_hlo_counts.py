"""What `benchmarks.ahead` reads in a compiled program: against XLA's own counts on a CPU, and by hand."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from benchmarks.ahead import __main__ as ahead
from benchmarks.ahead import programs
from benchmarks.ahead.chips import CHIPS
from benchmarks.ahead.hlo import Kernel, Program, num_bytes
from benchmarks.ahead.programs import KINDS, Wanted, described, floor
from benchmarks.ahead.table import in_words, markdown
from fip_jax.errors import UserError

LAYOUT = ("NHWC", "HWIO", "NHWC")
BY_HAND = """HloModule jit_step, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias) }

%body (p.1: (f32[8,4], s32[])) -> (f32[8,4], s32[]) {
  %p.1 = (f32[8,4]{1,0}, s32[]) parameter(0)
  %x.1 = f32[8,4]{1,0} get-tuple-element(%p.1), index=0
  %i.1 = s32[] get-tuple-element(%p.1), index=1
  %w.1 = f32[4,4]{1,0:T(8,128)S(1)} copy-done(%x.1)
  %dot.1 = f32[8,4]{1,0} dot(%x.1, %w.1), lhs_contracting_dims={1}, operand_precision={highest,highest}
  ROOT %t.1 = (f32[8,4]{1,0}, s32[]) tuple(%dot.1, %i.1)
}

%condition (p.2: (f32[8,4], s32[])) -> pred[] {
  %p.2 = (f32[8,4]{1,0}, s32[]) parameter(0)
  ROOT %c.2 = pred[] constant(true)
}

%inside (p.3: f32[8,4], p.4: f32[4,2]) -> f32[8,2] {
  %p.3 = f32[8,4]{1,0} parameter(0)
  %p.4 = f32[4,2]{1,0} parameter(1)
  ROOT %dot.3 = f32[8,2]{1,0} dot(%p.3, %p.4), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (a: f32[8,4], b: f32[4,2]) -> (f32[8,4], f32[8,2]) {
  %a = f32[8,4]{1,0} parameter(0)
  %b = f32[4,2]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %start = (f32[8,4]{1,0}, s32[]) tuple(%a, %zero)
  %while.1 = (f32[8,4]{1,0}, s32[]) while(%start), body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %y = f32[8,4]{1,0} get-tuple-element(%while.1), index=0
  %sum = f32[8,4]{1,0} all-reduce(%y), replica_groups={}, to_apply=%condition
  %fused = f32[8,2]{1,0} fusion(%sum, %b), kind=kOutput, calls=%inside, backend_config={"estimated_cycles":"70"}
  ROOT %out = (f32[8,4]{1,0}, f32[8,2]{1,0}) tuple(%sum, %fused)
}
"""


def operations(fn, *arguments):
    """(counted, XLA's own count) of a function of one convolution or product."""
    lowered = jax.jit(fn).lower(*arguments)
    compiled = lowered.compile(
        compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_experimental_ynn_fusion_type": ""}
    )
    kernels = Program(compiled.as_text()).kernels()
    return sum(sum(kernel.operations.values()) for kernel in kernels), lowered.cost_analysis()["flops"]


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 0), (1, 3))])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_convolutions_and_their_gradients_equal_xla(stride, padding):
    x, k = jnp.ones((2, 9, 7, 3)), jnp.ones((3, 2, 3, 4))

    def convolve(x, k):
        return jax.lax.conv_general_dilated(x, k, (stride, stride), padding, dimension_numbers=LAYOUT)

    g = convolve(x, k)
    assert operations(convolve, x, k)[0] == operations(convolve, x, k)[1] > 0
    for towards in (
        lambda g: jax.linear_transpose(lambda x: convolve(x, k), x)(g)[0],
        lambda g: jax.linear_transpose(lambda k: convolve(x, k), k)(g)[0],
    ):
        found, expected = operations(towards, g)
        assert found == pytest.approx(expected, rel=0.02)  # XLA counts the turning of a kernel as well
        assert found > 0


def test_grouped_convolutions_equal_xla():
    x, k = jnp.ones((2, 6, 6, 4)), jnp.ones((3, 3, 2, 6))

    def convolve(x, k):
        return jax.lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=LAYOUT, feature_group_count=2
        )

    found, expected = operations(convolve, x, k)
    assert found == expected > 0


def test_a_program_by_hand():
    program = Program(BY_HAND)
    kernels = program.kernels()
    dot = Kernel({"highest": 2.0 * 8 * 4 * 4}, 2 * 8 * 4 * 4, 0, 5)  # the weights lie on the chip
    exchange = Kernel({}, 2 * 8 * 4 * 4, 0, 1)
    fusion = Kernel({"default": 2.0 * 8 * 2 * 4}, 4 * (8 * 4 + 4 * 2 + 8 * 2), 70, 1)
    assert [kernel for kernel in kernels if kernel.operations or kernel.times == 1] == [dot, exchange, fusion]
    assert program.collectives() == {"all-reduce": 1}
    assert program.loops() == {"while.1": 5}
    # As for a TPU, where the condition alone says how often.
    counter = (
        "(%p.2), index=1\n  %n.2 = s32[] constant(7)\n  ROOT %c.2 = pred[] compare(%i.2, %n.2), direction=LT"
    )
    bounded = BY_HAND.replace(
        'backend_config={"known_trip_count":{"n":"5"}}', "condition=%condition"
    ).replace("ROOT %c.2 = pred[] constant(true)", f"%i.2 = s32[] get-tuple-element{counter}")
    assert Program(bounded).loops() == {"while.1": 7}
    assert sum(kernel.times for kernel in Program(bounded).kernels() if "highest" in kernel.operations) == 7
    assert program.donated() == [4 * 8 * 4]
    assert program.callbacks() == []
    assert program.doubles() == 0
    call = 'custom-call(%x.1), custom_call_target="xla_ffi_python_cpu_callback"'
    asking = BY_HAND.replace("copy-done(%x.1)", call)
    assert Program(asking).callbacks() == ["xla_ffi_python_cpu_callback"]
    assert Program(BY_HAND.replace("f32[4,2]", "f64[4,2]")).doubles() == 4


def test_the_floor_is_the_longer_of_products_and_bytes_kernel_by_kernel():
    chip = CHIPS["v5e"]  # 197e12 operations in bf16, a third of it in three passes; 819e9 bytes
    kernels = [
        Kernel({"default": 197e12}, 819, 0, 2),
        Kernel({"high": 197e12, "highest": 197e12}, 0, 0, 1),
        Kernel({}, 819 * 10**9, 0, 1),
    ]
    assert floor(kernels, chip) == pytest.approx(2 * 1 + (3 + 6) + 1)


def test_a_row_is_of_one_step_of_a_loop():
    row = described(Program(BY_HAND), Wanted("H100", "loop", "small_vgg", 8, "O3"))
    steps = KINDS["loop"].steps
    assert row["operations"] == {"f32": 5 * 256 / steps, "tf32": 128 / steps}
    assert row["cycles"] == 70 // steps
    assert described(Program(BY_HAND), Wanted("v5e", "ft", "small_vgg", 8, "O0"))["cycles"] is None


def test_bytes_of_shapes():
    assert num_bytes("(f32[2,3]{1,0:T(8,128)}, bf16[4]{0}, pred[], u8[0]{0})") == 24 + 8 + 1
    assert num_bytes("f32[2,3]{1,0:T(8,128)S(1)}") == 0
    assert num_bytes("f32[2,3]{1,0:T(8,128)S(1)}", everywhere=True) == 24


def test_rows_for_people():
    wanted = Wanted("H100", "ft", "small_vgg", 8, "UNKNOWN")
    spent = {"compile_processor_seconds": 9.6, "peak_bytes": 2**20, "donated": 1}
    row = wanted._asdict() | spent | described(Program(BY_HAND), wanted)
    broken = wanted._replace(chip="v4")._asdict() | {
        "compile_processor_seconds": 1.0,
        "error": "Error: a | b\nmore",
    }
    table = markdown([broken, row])
    assert "| FT step | H100 | own, 10 s | 1.28e-06 f32, 1.28e-07 tf32 | 0.00 GB |" in table
    assert table.index("| FT step | H100 |") < table.index("| FT step | v4 | own, 1 s | Error: a / b |")
    assert {line.count("|") for line in table.splitlines() if line.startswith("| ")} == {12}
    assert "small_vgg 8: FT step for H100: compiled in 9.6 s" in in_words(row)
    assert in_words(broken) == "small_vgg 8: FT step for v4: Error: a | b"


def test_a_program_that_has_a_row_is_not_compiled_again(tmp_path, monkeypatch):
    asked = [Wanted("v5e", kind, "small_vgg", 8, "O0") for kind in ("ft", "fip")]
    seen = []

    def compiled(worker, program):
        seen.append(program)
        return program._asdict() | {"compile_processor_seconds": 1.0, "error": "Error: no memory"}

    monkeypatch.setattr(ahead.Worker, "compiled", compiled)
    monkeypatch.setattr(ahead, "version", lambda name: "1.0")
    ahead.compile_missing(tmp_path / "ahead", asked[:1])
    ahead.compile_missing(tmp_path / "ahead", asked)
    assert seen == asked
    assert (tmp_path / "ahead.md").read_text().count("Error: no memory") == 2
    (tmp_path / "ahead.json").write_text("{}")
    with pytest.raises(UserError, match=r"ahead\.json: found no rows of this program"):
        ahead.compile_missing(tmp_path / "ahead", asked)


def test_without_the_compilers_the_way_to_them_is_told():
    if importlib.util.find_spec("libtpu"):
        pytest.skip("they are there")
    for chip in CHIPS:
        with pytest.raises(UserError, match=rf'{chip}: no compiler for it .*pip install "\.\[aot\]"'):
            programs.lower(Wanted(chip, "ft", "small_vgg", 8, "O0"))
