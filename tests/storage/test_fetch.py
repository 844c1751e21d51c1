"""Public files, from a server on this machine that breaks off, knows no ranges, or sends something else."""

import hashlib
import http.server
import re
import socket
import threading

import numpy as np
import pytest

from functions.errors import InputError
from functions.storage.fetch import PublicFile, cache_folder, locate

DATA = np.random.default_rng(0).bytes(300_000)
CONNECT = socket.socket.connect  # conftest.py takes it away from each test


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.data`, the rest of it where a range is asked for, and at most `server.cut` bytes of that."""

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.server.ranges else 0
        if start and start >= len(self.server.data):
            return self.send_error(416)
        body = self.server.data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    def local_only(self, address):
        if address[0] != "127.0.0.1":
            raise OSError("tests have no network")
        return CONNECT(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("TORCH_HOME", "cache")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.data, server.ranges, server.cut, server.asked = DATA, True, None, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def get(server, given=None):
    url = f"http://127.0.0.1:{server.server_port}/weights.pth"
    file = PublicFile("weights.pth", url, hashlib.sha256(DATA).hexdigest())
    return locate(file, given, "--weights", "--features x")


def part():
    return cache_folder() / "weights.pth.part"


def test_a_file_is_fetched_once_into_the_cache_of_torch_hub(server):
    path = get(server)
    assert str(path) == "cache/hub/checkpoints/weights.pth" and path.read_bytes() == DATA
    assert get(server) == path and server.asked == [None] and not part().exists()


def test_a_broken_line_is_one_line_and_the_next_try_goes_on(server):
    server.cut = 100_000
    with pytest.raises(InputError, match="100000 of 300000 bytes came; run again") as caught:
        get(server)
    assert "\n" not in str(caught.value) and part().stat().st_size == 100_000
    assert not (cache_folder() / "weights.pth").exists()
    server.cut = None
    assert get(server).read_bytes() == DATA and server.asked == [None, "bytes=100000-"]


def test_a_server_without_ranges_starts_over(server):
    cache_folder().mkdir(parents=True)
    part().write_bytes(DATA[:5000])
    server.ranges = False
    assert get(server).read_bytes() == DATA


def test_a_part_that_is_whole_is_taken(server):
    cache_folder().mkdir(parents=True)
    part().write_bytes(DATA)
    assert get(server).read_bytes() == DATA and server.asked == ["bytes=300000-"]


def test_what_is_not_the_file_is_thrown_away(server):
    server.data = b"<html>log in</html>"
    with pytest.raises(InputError, match=r"what arrived is not weights\.pth"):
        get(server)
    assert part().stat().st_size == 0
    server.data = DATA
    assert get(server).read_bytes() == DATA


def test_two_at_once_fetch_once(server):
    both = [threading.Thread(target=get, args=(server,)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert (cache_folder() / "weights.pth").read_bytes() == DATA and len(server.asked) == 1


def test_offline_one_line_says_what_to_put_where(monkeypatch):
    monkeypatch.setenv("TORCH_HOME", "cache")
    file = PublicFile("weights.pth", "http://192.0.2.1/weights.pth", "0" * 64)
    with pytest.raises(InputError) as caught:
        locate(file, None, "--weights", "--features x")
    message = str(caught.value)
    assert re.match(r"--features x: weights\.pth is not there and cannot be fetched \(.+\): put ", message)
    assert (
        "put http://192.0.2.1/weights.pth at cache/hub/checkpoints/weights.pth, or name a copy with --weights"
        in message
    )
    assert "\n" not in message


def test_a_file_by_hand_is_checked(server, tmp_path):
    with pytest.raises(
        InputError, match=r"copy\.pth: no such file \(--weights; --features x wants weights\.pth of http"
    ):
        get(server, tmp_path / "copy.pth")
    (tmp_path / "copy.pth").write_bytes(DATA[:-1])
    with pytest.raises(
        InputError, match=r"copy\.pth: cut short, or not weights\.pth of .* its 299999 bytes have sha256"
    ):
        get(server, tmp_path / "copy.pth")
    (tmp_path / "copy.pth").write_bytes(DATA)
    assert get(server, tmp_path / "copy.pth") == tmp_path / "copy.pth" and not server.asked
