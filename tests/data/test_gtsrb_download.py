"""The downloads of the GTSRB builder, from a server on this machine."""

import functools
import hashlib
import http.server
import socket
import threading
import time

import pytest
import requests
from gtsrb_archives import TEST_FILES, assert_nothing_prepared, make, prepare, write

from fip_jax.data import gtsrb
from fip_jax.errors import UserError


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Folder served on 127.0.0.1 as the official site, holding the synthetic archives with their MD5."""
    folder = write(tmp_path / "served", make())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(gtsrb, "BASE_URL", f"http://127.0.0.1:{httpd.server_port}/")
        md5 = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in gtsrb.ARCHIVE_MD5}
        monkeypatch.setattr(gtsrb, "ARCHIVE_MD5", md5)
        yield folder
        httpd.shutdown()
        thread.join()


def test_download(server, tmp_path):
    builder = prepare(tmp_path / "data", tmp_path / "nothing here")
    assert len(builder.as_data_source(split="train")) == 18
    assert builder.info.download_size == sum(path.stat().st_size for path in server.iterdir())


def test_only_what_the_manual_folder_lacks_is_downloaded(server, tmp_path):
    manual = tmp_path / "manual"
    manual.mkdir()
    (server / gtsrb.TRAIN_IMAGES).rename(manual / gtsrb.TRAIN_IMAGES)
    assert len(prepare(tmp_path / "data", manual).as_data_source(split="test")) == TEST_FILES


def test_download_is_cached(server, tmp_path, monkeypatch):
    prepare(tmp_path / "data", tmp_path / "manual")
    monkeypatch.setattr(requests, "get", None)  # a cached archive needs no network
    for path in server.iterdir():
        path.unlink()
    assert len(prepare(tmp_path / "data", tmp_path / "manual", "whole").as_data_source(split="train")) == 18


def test_download_with_another_md5_is_refused_and_removed(server, tmp_path):
    path = server / gtsrb.TEST_IMAGES
    good = path.read_bytes()
    path.write_bytes(good + b"\0")
    with pytest.raises(UserError, match=r"has MD5 [0-9a-f]{32}, expected [0-9a-f]{32}") as caught:
        prepare(tmp_path / "data", tmp_path / "manual")
    assert gtsrb.BASE_URL + gtsrb.TEST_IMAGES in str(caught.value)
    assert_nothing_prepared(tmp_path / "data")

    path.write_bytes(good)
    assert len(prepare(tmp_path / "data", tmp_path / "manual").as_data_source(split="train")) == 18


def test_absent_download_names_what_is_missing(server, tmp_path):
    (server / gtsrb.TRAIN_IMAGES).unlink()
    with pytest.raises(UserError) as caught:
        prepare(tmp_path / "data", tmp_path / "manual")
    message = str(caught.value)
    assert message.startswith(f"{gtsrb.TRAIN_IMAGES} not found in {tmp_path / 'manual'} ")
    assert "404" in message and "dataset.manual_dir" in message
    assert_nothing_prepared(tmp_path / "data")


def test_refused_connection_fails_at_once(server, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(gtsrb, "BASE_URL", f"http://127.0.0.1:{free.getsockname()[1]}/")
        start = time.monotonic()
        with pytest.raises(UserError) as caught:
            prepare(tmp_path / "data", tmp_path / "manual")
    assert time.monotonic() - start < 5.0
    message = str(caught.value)
    assert all(name in message for name in gtsrb.ARCHIVE_MD5)
    assert (
        gtsrb.BASE_URL in message and "Connection refused" in message and str(tmp_path / "manual") in message
    )
    assert_nothing_prepared(tmp_path / "data")


def test_server_that_never_answers(server, tmp_path, monkeypatch):
    monkeypatch.setattr(gtsrb, "TIMEOUTS", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(gtsrb, "BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(UserError, match="timed out"):
            prepare(tmp_path / "data", tmp_path / "manual")


def test_download_that_breaks_off(server, tmp_path, monkeypatch):
    def short(self, source, outputfile):
        outputfile.write(source.read(10))  # fewer bytes than the Content-Length that was announced

    monkeypatch.setattr(_Quiet, "copyfile", short)
    with pytest.raises(UserError, match="not downloaded from"):
        prepare(tmp_path / "data", tmp_path / "manual")
    assert_nothing_prepared(tmp_path / "data")


def test_official_addresses():
    assert gtsrb.BASE_URL.startswith("https://") and gtsrb.BASE_URL.endswith("/")
    assert all(len(md5) == 32 for md5 in gtsrb.ARCHIVE_MD5.values())
