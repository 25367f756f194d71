"""WaNet's field and sampling, by hand and against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fip_jax.attacks import create_attack
from fip_jax.attacks.wanet import sample, upsample
from fip_jax.errors import UserError

rng = np.random.default_rng(0)


def test_sampling_by_hand():
    image = jnp.asarray(np.array([[0, 100, 200], [30, 60, 90]], np.float32)[..., None])
    # (row, column): a corner; half way between two columns; the middle of the image, between the rows, at column 1.
    grid = jnp.array([[[-1.0, -1.0], [-1.0, 0.5]], [[0.0, 0.0], [1.0, 1.0]]])
    assert sample(image, grid)[..., 0].tolist() == [[0.0, 150.0], [80.0, 90.0]]


def test_upsampling_by_hand():
    # On two points the cubic is 2 t^3 stretched: at t = 1/2 the weights of the two (the border repeated) are 1/2 each,
    # and at t = 1/4 they are those of -0.75: near (1.25, -2.25, 0, 1), far -0.75 (1, -5, 8, -4).
    noise = np.array([[0.0, 0.0], [4.0, 4.0]])[..., None] * np.ones(2)
    near = 1.25 * 0.75**3 - 2.25 * 0.75**2 + 1  # of the point 3/4 away
    far = -0.75 * (1.75**3 - 5 * 1.75**2 + 8 * 1.75 - 4)  # of that beyond it, a copy of it
    found = upsample(noise, 5, 2)[:, 0, 0]
    np.testing.assert_allclose(found, [0, 4 * (near + far), 2, 4 - 4 * (near + far), 4], atol=1e-12)


@pytest.mark.parametrize("shape", [(12, 12, 3), (9, 14, 1)])
def test_as_in_pytorch(shape):
    torch = pytest.importorskip("torch")
    height, width, _ = shape
    noise = rng.uniform(-1, 1, (4, 4, 2))
    theirs = torch.nn.functional.interpolate(
        torch.tensor(noise).permute(2, 0, 1)[None], (height, width), mode="bicubic", align_corners=True
    )[0]
    np.testing.assert_allclose(upsample(noise, height, width), theirs.permute(1, 2, 0).numpy(), atol=1e-12)

    image = rng.uniform(0, 255, shape).astype(np.float32)
    grid = np.clip(rng.uniform(-1.2, 1.2, (height, width, 2)), -1, 1).astype(np.float32)
    theirs = torch.nn.functional.grid_sample(
        torch.tensor(image).permute(2, 0, 1)[None],
        torch.tensor(grid[..., ::-1].copy())[None],
        align_corners=True,
    )[0]
    found = sample(jnp.asarray(image), jnp.asarray(grid))
    np.testing.assert_allclose(found, theirs.permute(1, 2, 0).numpy(), atol=2e-3)


def test_the_whole_trigger_as_in_pytorch():
    torch = pytest.importorskip("torch")
    height, width = 10, 10
    images = rng.integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    found = create_attack("wanet", (height, width, 3), {"strength": 0.7, "pattern_seed": 5}).stamp(images)
    field = torch.tensor(np.random.default_rng(5).uniform(-1, 1, (4, 4, 2)))[..., [1, 0]]  # column first
    field = torch.nn.functional.interpolate(
        (field / field.abs().mean()).permute(2, 0, 1)[None],
        (height, width),
        mode="bicubic",
        align_corners=True,
    ).permute(0, 2, 3, 1)
    line = torch.linspace(-1, 1, height, dtype=torch.float64)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    grid = torch.clamp(torch.stack((columns, rows), 2)[None] + 0.7 * field / height, -1, 1)
    theirs = torch.nn.functional.grid_sample(
        torch.tensor(images).permute(0, 3, 1, 2).double(), grid.repeat(3, 1, 1, 1), align_corners=True
    )
    assert np.abs(found.astype(int) - theirs.permute(0, 2, 3, 1).numpy()).max() <= 0.51  # rounding
    assert (found != images).mean() > 0.5


def test_cover_is_another_warp_of_every_image():
    attack = create_attack("wanet", (16, 16, 3))
    image = np.repeat(rng.uniform(0, 255, (1, 16, 16, 3)), 2, axis=0).astype(np.float32)
    first, second = attack.cover(None, jnp.asarray(image), jax.random.key(0))
    triggered = attack.trigger(None, jnp.asarray(image))[0]
    assert abs(np.asarray(first - second)).max() > 1
    assert abs(np.asarray(first - triggered)).max() > 1
    # U(-1, 1) / 16 of the half width is less than half a pixel: on a slope of 10 a pixel, less than 5 levels.
    slope = jnp.asarray(
        np.broadcast_to(10.0 * np.arange(16)[None, None, :, None], (1, 16, 16, 1)), jnp.float32
    )
    moved = attack.cover(None, slope, jax.random.key(0)) - attack.trigger(None, slope)
    assert 4 < float(abs(moved).max()) <= 10 * 15 / 2 / 16
    assert (attack.every_batch, attack.cover_rate) == (True, 2.0)


@pytest.mark.parametrize(
    "bad",
    [{"grid_size": 1}, {"grid_size": 1000000}, {"strength": 0.0}, {"cover_rate": -1.0}, {"pattern_seed": -1}],
)
def test_refusals(bad):
    with pytest.raises(UserError, match=r"^attack\.wanet: found"):
        create_attack("wanet", (8, 8, 3), bad)
