"""Fetching by name, against a server on the loopback interface."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import small_networks
import torch
from checkpoint_formats import write_jittor
from small_networks import narrow

from geoseg.errors import CheckpointError, DownloadError
from geoseg.model import hub
from geoseg.model.checkpoint import read_metadata
from geoseg.model.hub import PUBLIC_WEIGHTS, PublicWeights, fetch, find_public, record_path
from geoseg.model.load import load_model, locate_weights
from geoseg.model.metadata import file_hash
from geoseg.model.segnext import SegNeXt

FIXTURES = str(Path(small_networks.__file__).parent)


@dataclass
class Site:
    """One file on a server, and how badly it is served."""

    content: bytes
    etag: str | None = '"v1"'
    ranges: bool = True
    heeds_if_range: bool = True
    ends_after: int | None = None
    """Close the connection after so many bytes of a body."""
    status: int = 200
    requests: list[tuple[str | None, int]] = field(default_factory=list)
    """The Range header and the length of the body sent, per request."""

    def body(self, asked: str | None, if_range: str | None) -> tuple[int, int]:
        """Status and first byte of the answer."""
        if self.status != 200 or not asked or not self.ranges:
            return self.status, 0
        if self.heeds_if_range and if_range != self.etag:
            return 200, 0
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        return (206, start) if start < len(self.content) else (416, 0)


@dataclass
class Server:
    site: Site
    entry: PublicWeights


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, asked = self.site, self.headers["Range"]
        status, start = site.body(asked, self.headers["If-Range"])
        body = site.content[start:] if status < 300 else b"no"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 206:
            size = len(site.content)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if site.etag:
            self.send_header("ETag", site.etag)
        sent = body[: site.ends_after]
        site.requests.append((asked, len(sent)))  # before the client can ask again
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def _narrow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        narrow(monkeypatch)
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("server") / "weights.pkl"
    write_jittor(path, SegNeXt("T").state_dict())
    return path.read_bytes()


@pytest.fixture
def server(weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site(weights)
    handler = type("SiteHandler", (Handler,), {"site": site})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{http.server_port}/files/tiny.pkl"
        entry = PublicWeights("segnext_t_isaid", "T", url, 68.3)
        monkeypatch.setattr(hub, "PUBLIC_WEIGHTS", (entry,))
        yield Server(site, entry)
        http.shutdown()
        thread.join()


def cached(entry: PublicWeights) -> set[str]:
    """Files in the cache, and in its folder of partial downloads but for locks."""
    files = (path for path in entry.path.parent.rglob("*") if path.is_file())
    return {path.name for path in files if path.suffix != ".lock"}


DONE = {"segnext_t_isaid.safetensors", "segnext_t_isaid.sha256"}
PARTIAL = {"tiny.pkl", "tiny.pkl.etag"}


def test_full_download_is_converted_recorded_and_used(server: Server) -> None:
    path = fetch(server.entry)
    assert path == server.entry.path
    assert cached(server.entry) == DONE
    assert server.site.requests == [(None, len(server.site.content))]
    metadata = read_metadata(path)
    assert metadata.scale == 1.12
    assert metadata.metrics == {"iSAID val mIoU": 68.3}
    assert server.entry.url in metadata.provenance
    assert "academic" in metadata.license
    assert hashlib.sha256(server.site.content).hexdigest() in metadata.provenance
    recorded = record_path(server.entry).read_text()
    assert f"{file_hash(path)}  {path.name}\n" in recorded

    assert load_model("segnext_t_isaid").metadata == metadata
    assert locate_weights("segnext_t_isaid") == path
    assert len(server.site.requests) == 1  # the cache was used


def interrupted(server: Server, after: int) -> None:
    server.site.ends_after = after
    with pytest.raises(DownloadError, match=rf"after {after} of \d+ bytes; go on with: geoseg"):
        fetch(server.entry)
    server.site.ends_after = None
    assert cached(server.entry) == PARTIAL


def test_broken_download_is_resumed(server: Server) -> None:
    size = len(server.site.content)
    interrupted(server, 100_000)
    server.site.ends_after = 50_000
    with pytest.raises(DownloadError, match="150000 of"):
        fetch(server.entry)
    server.site.ends_after = None
    fetch(server.entry)
    assert server.site.requests == [
        (None, 100_000),
        ("bytes=100000-", 50_000),
        ("bytes=150000-", size - 150_000),
    ]
    assert cached(server.entry) == DONE
    load_model(server.entry.path)


def test_server_without_ranges(server: Server) -> None:
    interrupted(server, 1000)
    server.site.ranges = False
    fetch(server.entry)
    assert server.site.requests[1:] == [("bytes=1000-", len(server.site.content))]
    load_model(server.entry.path)


@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_changed_file_starts_over(server: Server, heeds_if_range: bool) -> None:
    server.site.content, right = b"x" * 5000, server.site.content
    interrupted(server, 1000)
    server.site.content, server.site.etag = right, '"v2"'
    server.site.heeds_if_range = heeds_if_range
    fetch(server.entry)
    assert server.site.requests[-1][1] == len(right)
    load_model(server.entry.path)


def test_server_that_does_not_name_versions(server: Server) -> None:
    server.site.etag = None
    interrupted(server, 1000)
    fetch(server.entry)
    assert [asked for asked, _ in server.site.requests] == [None, None]
    load_model(server.entry.path)


def test_partial_file_longer_than_the_servers(server: Server) -> None:
    interrupted(server, 1000)
    part = server.entry.path.parent / "partial" / "tiny.pkl"
    part.write_bytes(b"x" * (len(server.site.content) + 7))
    fetch(server.entry)
    assert server.site.requests[-1] == (None, len(server.site.content))
    load_model(server.entry.path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>please log in</html>", "nor a complete pickle"),
        (b"", "nor a complete pickle"),
        (pickle.dumps(os.system, 4), r"asks for '\w+\.system'"),
        (pickle.dumps({"state_dict": {}}, 4), "no SegNeXt"),
    ],
)
def test_wrong_content_does_not_stay(server: Server, content: bytes, said: str) -> None:
    server.site.content = content
    with pytest.raises(DownloadError, match=f"was refused: .*{said}"):
        fetch(server.entry)
    assert cached(server.entry) == set()


def test_wrong_variant(server: Server) -> None:
    with pytest.raises(DownloadError, match="it is a SegNeXt-T, not B"):
        fetch(replace(server.entry, variant="B"))
    assert cached(server.entry) == set()


def test_published_hash(server: Server) -> None:
    right = hashlib.sha256(server.site.content).hexdigest()
    with pytest.raises(DownloadError, match=r"sha256 is .*, not 0000.* as published"):
        fetch(replace(server.entry, sha256="0" * 64))
    assert cached(server.entry) == set()
    fetch(replace(server.entry, sha256=right))
    assert cached(server.entry) == DONE


def test_changed_cache_is_noticed(server: Server) -> None:
    path = fetch(server.entry)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"differs from the recorded.*--force"):
        load_model("segnext_t_isaid")
    fetch(server.entry, force=True)
    load_model("segnext_t_isaid")


def test_first_download_is_trusted_the_second_must_equal_it(server: Server, tmp_path: Path) -> None:
    fetch(server.entry).unlink()
    right = server.site.content
    write_jittor(tmp_path / "other.pkl", SegNeXt("T").state_dict())
    server.site.content = (tmp_path / "other.pkl").read_bytes()
    with pytest.raises(DownloadError, match="as recorded in"):
        fetch(server.entry)
    assert cached(server.entry) == {"segnext_t_isaid.sha256"}
    server.site.content = right
    fetch(server.entry)


def test_file_without_record_is_not_trusted(server: Server) -> None:
    server.entry.path.parent.mkdir(parents=True)
    server.entry.path.write_bytes(b"planted")
    load_model(fetch(server.entry))


@pytest.mark.parametrize("status", [403, 404, 500])
def test_http_errors(server: Server, status: int) -> None:
    server.site.status = status
    with pytest.raises(DownloadError, match=rf"HTTP {status} .*geoseg weights import tiny\.pkl"):
        fetch(server.entry)
    assert cached(server.entry) == set()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/tiny.pkl", "http://nowhere.invalid/tiny.pkl"])
def test_without_network(server: Server, url: str) -> None:
    entry = replace(server.entry, url=url)
    with pytest.raises(DownloadError, match=r"cannot fetch .*geoseg weights import tiny\.pkl") as e:
        fetch(entry)
    assert "\n" not in str(e.value)


def test_unwritable_cache(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match=r"cannot write to the cache .*set GEOSEG_CACHE"):
        fetch(server.entry)


def test_two_processes_fetch_once(server: Server) -> None:
    program = (
        "import sys; sys.path.append(sys.argv[2]); from pytest import MonkeyPatch; "
        "from small_networks import narrow; narrow(MonkeyPatch()); "
        "from geoseg.model.hub import fetch, PublicWeights; "
        "print(fetch(PublicWeights('segnext_t_isaid', 'T', sys.argv[1], 68.3)))"
    )
    command = [sys.executable, "-c", program, server.entry.url, FIXTURES]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [child.communicate(timeout=120)[0].strip() for child in children]
    assert answers == [str(server.entry.path)] * 2
    assert [child.returncode for child in children] == [0, 0]
    assert len(server.site.requests) == 1
    assert cached(server.entry) == DONE


def test_registry_is_what_the_authors_published() -> None:
    assert [entry.variant for entry in PUBLIC_WEIGHTS] == ["T", "S", "B", "L"]
    assert [entry.miou for entry in PUBLIC_WEIGHTS] == [68.3, 68.8, 69.9, 70.3]
    for entry in PUBLIC_WEIGHTS:
        assert find_public(entry.name) is entry
        assert re.fullmatch(r"https://\S+/segnext_\w+_896x896_isaid_160k\.pkl", entry.url)
    assert find_public("segnext_t_aerial") is None
