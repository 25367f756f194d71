"""`fip_jax.main` with a network of two layers in the place of small_vgg: whole runs that compile little."""

import runpy

from oracles import TinyNet

from fip_jax.models import MODELS

MODELS["small_vgg"] = TinyNet
runpy.run_module("fip_jax.main", run_name="__main__", alter_sys=True)
