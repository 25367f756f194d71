"""Two hosts, here two processes of two devices each, against one device: the same purification."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
from linear_network import purified

SCRIPT = Path(__file__).with_name("linear_network.py")


def test_two_hosts_do_as_one_device(tmp_path):
    with socket.socket() as found:
        found.bind(("localhost", 0))
        address = f"localhost:{found.getsockname()[1]}"
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parent.parent), "XLA_FLAGS": ""}
    hosts = [
        subprocess.Popen(
            [sys.executable, SCRIPT, address, str(host), tmp_path / f"{host}.npz"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for host in (0, 1)
    ]
    outputs = [process.communicate(timeout=120)[0].decode() for process in hosts]
    expected = purified("none")
    for host, process in enumerate(hosts):
        assert process.returncode == 0, outputs[host]
        with np.load(tmp_path / f"{host}.npz") as found:
            assert found["num_devices"] == 4
            for name in ("kernel", "bias"):
                np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)
