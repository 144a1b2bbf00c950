import errno
import functools
import gzip
import http.server
import os
import socket
import threading

import pytest

from eqprop.train.data import fetch, load


@pytest.fixture
def served(tmp_path):
    """A folder and the address at which this machine serves it; requests are counted."""
    root = tmp_path / "served"
    root.mkdir()
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            requests.append(self.path)

        def do_GET(self):
            if self.path.startswith("/short/"):  # promises more than it sends
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"\x1f\x8b")
            else:
                super().do_GET()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield root, f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    thread.join()
    server.server_close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_fetched_is_loaded(mini, places, served):
    root, address, requests = served
    mini.write(root / "mini", compressed=True)
    seen = []
    folder = fetch("mini", mirrors=[f"{address}/mini/"], progress=lambda *step: seen.append(step))
    assert folder == places["named"] / "mini"
    assert names(folder) == sorted(f"{name}.gz" for name in mini.content)
    assert load("mini").train_targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert len(requests) == 4
    assert [name for name, _, _ in seen] == list(mini_order(mini))
    assert all(done == total for _, done, total in seen)
    fetch("mini", mirrors=[f"{address}/mini/"])
    assert len(requests) == 4  # what is there and right is not fetched again


def mini_order(mini):
    return [file.name for file in mini.entry().files]


def test_without_a_named_folder_it_goes_to_the_users(mini, places, served, monkeypatch):
    root, address, _ = served
    mini.write(root, compressed=True)
    monkeypatch.delenv("EQPROP_DATA")
    assert fetch("mini", mirrors=[address]) == places["user"] / "mini"
    assert load("mini").classes == 3


def test_only_the_wrong_file_is_fetched_again(mini, places, served):
    root, address, requests = served
    mini.write(root, compressed=True)
    mini.write(places["here"])
    (places["here"] / "t10k-labels-idx1-ubyte").write_bytes(b"broken")
    fetch("mini", places["here"], mirrors=[address])
    assert requests == ["/t10k-labels-idx1-ubyte.gz"]
    assert load("mini").test_targets.tolist() == mini.labels["t10k"].tolist()


def test_the_next_mirror_is_tried(mini, places, served):
    root, address, _ = served
    mini.write(root / "right", compressed=True)
    mini.other.write(root / "wrong", compressed=True)
    fetch("mini", mirrors=[f"{address}/gone", f"{address}/wrong", f"{address}/short", f"{address}/right"])
    assert load("mini").classes == 3


def test_when_no_mirror_serves_each_failure_is_told_and_nothing_is_left(mini, places, served):
    root, address, _ = served
    mini.other.write(root / "wrong", compressed=True)
    (root / "text").mkdir()
    (root / "text" / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"<html>"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    mirrors = [f"{address}/{name}" for name in ("gone", "wrong", "short", "text")] + [nobody, "no-address"]
    with pytest.raises(ConnectionError) as caught:
        fetch("mini", mirrors=mirrors)
    message = str(caught.value)
    assert message.startswith("No mirror gave `train-images-idx3-ubyte` of 'mini': ")
    assert "/gone/train-images-idx3-ubyte.gz: the server answered 404 " in message
    assert (
        "/wrong/train-images-idx3-ubyte.gz: what it sent is not the file it should be: its content has SHA" in message
    )
    assert "/short/train-images-idx3-ubyte.gz: " in message
    assert "2 of 1000 bytes" in message or "broke after" in message
    assert "what it sent is not an IDX file: it must begin" in message
    assert "refused" in message
    assert "unknown url type" in message
    assert "http_proxy" in message
    assert "bring the set another way: `eqprop data fetch mini`" in message
    assert ".part" not in message
    assert names(places["named"] / "mini") == []


def test_a_full_disk_is_named(mini, places, served, monkeypatch):
    root, address, _ = served
    mini.write(root, compressed=True)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"Cannot write 'mini' to `.*mini`: No space left on device. Free space"
    ) as caught:
        fetch("mini", mirrors=[address])
    assert caught.value.errno == errno.ENOSPC
    assert names(places["named"] / "mini") == []


def test_a_folder_that_is_a_file_is_named(mini, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match=r"Cannot write 'mini' to `.*taken`: File exists"):
        fetch("mini", tmp_path / "taken")


def test_an_interruption_leaves_no_part(mini, places, served):
    root, address, _ = served
    mini.write(root, compressed=True)

    def interrupt(*step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("mini", mirrors=[address], progress=interrupt)
    assert names(places["named"] / "mini") == []


def test_what_needs_no_fetching_says_so():
    with pytest.raises(ValueError, match="nothing to fetch for 'digits': it comes with scikit-learn"):
        fetch("digits")
    with pytest.raises(ValueError, match="No data set is called 'cifar'"):
        fetch("cifar")
