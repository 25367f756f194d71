"""Where a step's time goes: which operation counts as what."""

import pytest

from benchmarks import profile
from benchmarks.speed.workload import Workload

PROGRAM = """
HloModule step, entry_computation_layout={(f32[2,2]{1,0})->f32[2]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (x: f32[2,2]) -> f32[2] {
  %x = f32[2,2]{1,0} parameter(0)
  %zero = f32[] constant(0)
  %square = f32[2,2]{1,0} multiply(%x, %x)
  ROOT %reduce.1 = f32[2]{0} reduce(%square, %zero), dimensions={0}, to_apply=%add
}

ENTRY %main (p: f32[2,2]) -> f32[2] {
  %p = f32[2,2]{1,0} parameter(0)
  %dot.3 = f32[2,2]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %copy.2 = f32[2,2]{0,1} copy(%dot.3)
  %loop = (s32[], f32[2,2]{1,0}) while(%copy.2), condition=%c, body=%b
  %other = f32[2,2]{1,0} exponential(%copy.2)
  ROOT %fusion.7 = f32[2]{0} fusion(%other), kind=kLoop, calls=%fused
}
"""


def test_an_instruction_counts_as_what_it_does():
    kinds = profile.kinds_of(PROGRAM)
    _, products, sums, elements = profile.KINDS
    assert kinds["dot.3"] == products
    assert kinds["fusion.7"] == sums
    assert kinds["other"] == elements
    assert kinds["copy.2"] == profile.REST
    assert "loop" not in kinds


# Of jaxlib's own types, from Python 3.12 on; as an error inside of its C++ it ends the process.
@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")
def test_a_step_is_taken_apart():
    row = profile.profile(Workload("ft", "small_vgg", 2, 16), steps=1)
    convolutions = next(iter(profile.KINDS))
    assert row["milliseconds"][convolutions] > 0
    assert abs(sum(row["milliseconds"].values()) - row["total"]) < 1e-9
    assert profile.table([row]).count("|\n") == 2 + len(profile.KINDS) + 2
