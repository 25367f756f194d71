"""A linear network, purified by the command line on one host or one of several; used by `test_hosts.py`."""

import sys

import jax
import numpy as np

import fip_jax

OPTIONS = {
    "steps": 6,
    "batch_size": 16,
    "trace_batch_size": 8,
    "eta_f": 0.05,
    "eta_r": 2.0,
    "radius": 0.1,
}


def apply_fn(params, images):
    return images.reshape(len(images), -1) @ params["kernel"] + params["bias"][None]


def purified(parallel):
    """Its parameters afterwards."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    params = {
        "kernel": jax.numpy.asarray(rng.normal(size=(192, 4)) / 20, np.float32),
        "bias": jax.numpy.zeros(4),
    }
    labels = rng.integers(0, 4, 40)
    return fip_jax.purify_function(apply_fn, params, images, labels, parallel=parallel, **OPTIONS)


if __name__ == "__main__":
    address, host, out = sys.argv[1:]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(address, num_processes=2, process_id=int(host))
    np.savez(out, num_devices=jax.device_count(), **purified("pmap"))
