"""Download public weights to the user's cache, once, and check them at every use.

A partial download lies in ``partial/`` with the server's ETag, and is resumed only while the file
on the server is the same; pooch cannot resume, the standard library's HTTP client can. Weights get
their final name when they are complete, converted and hashed. If no hash was published, the first
download is trusted and recorded, and later ones must have the same hash.
"""

from __future__ import annotations

import os
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError

from filelock import FileLock
from tqdm import tqdm

from geoseg.classes import ISAID
from geoseg.errors import CheckpointError, DownloadError
from geoseg.model.metadata import file_hash
from geoseg.version import VERSION


@dataclass(frozen=True, slots=True)
class PublicWeights:
    """A checkpoint on its authors' server."""

    name: str
    """Name for `--weights` and `geoseg weights fetch`."""
    variant: str
    """T, S, B or L."""
    url: str
    """Address of the Jittor pickle, which is converted after download."""
    miou: float
    """Mean IoU on iSAID val in percent, as published."""
    sha256: str | None = None
    """Published hash of the download; None = the first download's hash is recorded."""

    @property
    def filename(self) -> str:
        """Last part of the address."""
        return self.url.rpartition("/")[2]

    @property
    def path(self) -> Path:
        """Path of the converted weights, in the cache."""
        return cache_folder() / f"{self.name}.safetensors"


def cache_folder() -> Path:
    """Return `weights` in `$GEOSEG_CACHE`, or in the user's cache folder."""
    if configured := os.environ.get("GEOSEG_CACHE"):
        return Path(configured) / "weights"
    # Machines for training may lack platformdirs; they use no cache.
    from platformdirs import user_cache_path

    return user_cache_path("geoseg") / "weights"


SERVER = "https://cg.cs.tsinghua.edu.cn/jittor/assets/build/checkpoints/"

PUBLIC_WEIGHTS = tuple(
    PublicWeights(
        f"segnext_{variant.lower()}_isaid",
        variant,
        f"{SERVER}segnext_{size}_896x896_isaid_160k.pkl",
        miou,
    )
    for variant, size, miou in (
        ("T", "tiny", 68.3),
        ("S", "small", 68.8),
        ("B", "base", 69.9),
        ("L", "large", 70.3),
    )
)
"""SegNeXt on iSAID by its authors, 896 × 896 px, 160 000 iterations (Jittor code)."""

LICENSE = "code Apache-2.0; weights trained on iSAID, which is for academic use only"
"""License of `PUBLIC_WEIGHTS`."""


def find_public(name: str) -> PublicWeights | None:
    """Return the entry of that name, or None."""
    return next((entry for entry in PUBLIC_WEIGHTS if entry.name == name), None)


TIMEOUT = 30.0
"""Seconds to wait for the server's next byte."""
CHUNK = 1 << 18
"""Bytes read at once."""


def fetch(entry: PublicWeights, *, force: bool = False) -> Path:
    """Return the path of the weights, downloaded and converted if they are not in the cache.

    Args:
        force: download them even if they are.

    Raises:
        DownloadError: the server cannot be reached, the transfer broke (the next call resumes
            it), or the file is not the expected one.
    """
    final = entry.path
    partial = final.parent / "partial"
    try:
        if not force and is_intact(entry):  # before any lock: a shared cache may be read-only
            return final
        partial.mkdir(parents=True, exist_ok=True)
        with FileLock(partial / f"{entry.name}.lock"):
            if force or not is_intact(entry):
                download(entry, partial / entry.filename)
                install(entry, partial / entry.filename)
    except OSError as error:
        raise DownloadError(
            f"cannot write to the cache {final.parent}: {error.strerror or error}; "
            "set GEOSEG_CACHE to a folder where you can"
        ) from None
    return final


def is_intact(entry: PublicWeights) -> bool:
    """Return whether the weights are in the cache. Raises CheckpointError if they have changed."""
    final, hashes = entry.path, recorded_hashes(entry)
    if not final.is_file() or final.name not in hashes:
        return False
    if file_hash(final) != hashes[final.name]:
        raise CheckpointError(
            f"{final} is not what was fetched (its sha256 differs from the recorded one); "
            f"replace it: geoseg weights fetch {entry.name} --force"
        )
    return True


def record_path(entry: PublicWeights) -> Path:
    return entry.path.with_suffix(".sha256")


def recorded_hashes(entry: PublicWeights) -> dict[str, str]:
    """Return SHA-256 by file name, from a record in the format of `sha256sum`."""
    path = record_path(entry)
    if not path.is_file():
        return {}
    lines = path.read_text("utf-8", errors="replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def install(entry: PublicWeights, source: Path) -> None:
    """Check and convert a complete download, record its hash, and give it its final name."""
    final, record = entry.path, record_path(entry)
    converted = source.with_name(final.name)
    try:
        digest = file_hash(source)
        convert(entry, source, digest, converted)
        note = record.with_suffix(".tmp")
        note.write_text(f"{digest}  {source.name}\n{file_hash(converted)}  {final.name}\n", "utf-8")
        note.replace(record)
        converted.replace(final)
    except CheckpointError as error:
        discard(source)
        raise DownloadError(f"{entry.url} was refused: {error}") from None
    finally:
        converted.unlink(missing_ok=True)
    discard(source)


def convert(entry: PublicWeights, source: Path, digest: str, target: Path) -> None:
    # It imports torch, which `geoseg weights list` must not wait for.
    from geoseg.model.convert import import_checkpoint

    expected = entry.sha256 or recorded_hashes(entry).get(source.name, digest)
    if digest != expected:
        origin = "as published" if entry.sha256 else f"as recorded in {record_path(entry)}"
        raise CheckpointError(f"its sha256 is {digest[:12]}…, not {expected[:12]}… {origin}")
    metadata = import_checkpoint(
        source,
        target,
        ISAID,
        provenance=f"{entry.url}, iSAID, by the authors of SegNeXt",
        license=LICENSE,
        metrics={"iSAID val mIoU": entry.miou},
    )
    if metadata.variant != entry.variant:
        raise CheckpointError(f"it is a SegNeXt-{metadata.variant}, not {entry.variant}")


def discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    validator_path(part).unlink(missing_ok=True)


def validator_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def download(entry: PublicWeights, part: Path) -> None:
    """Complete `part`, resuming an earlier attempt if the server still has the same file."""
    note = validator_path(part)
    validator = note.read_text("utf-8") if note.is_file() else ""
    offset = part.stat().st_size if validator and part.is_file() else 0
    response, offset = request(entry, offset, validator)
    with response:
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length and length.isdigit() else None
        with (
            part.open("ab" if offset else "wb") as file,
            tqdm(
                desc=entry.name,
                total=total,
                initial=offset,
                unit="B",
                unit_scale=True,
                disable=None,
            ) as bar,
        ):
            note.write_text(validator_of(response), "utf-8")
            for chunk in chunks(entry, response):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and (size := part.stat().st_size) != total:
        raise DownloadError(
            f"the connection to {response.url} ended after {size} of {total} bytes; "
            f"go on with: geoseg weights fetch {entry.name}"
        )


def request(entry: PublicWeights, offset: int, validator: str) -> tuple[HTTPResponse, int]:
    """Return a response and the offset of its body in the file: `offset`, or else 0."""
    headers = {"User-Agent": f"geoseg/{VERSION}", "Accept-Encoding": "identity"}
    resume = {"Range": f"bytes={offset}-", "If-Range": validator} if offset else {}
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(entry.url, headers=headers | resume), timeout=TIMEOUT
        )
    except HTTPError as error:
        if resume and error.code == 416:  # the part is as long as the server's file
            return request(entry, 0, "")
        raise unreachable(entry, f"HTTP {error.code} {error.reason}") from None
    except (URLError, OSError, HTTPException) as error:
        raise unreachable(entry, getattr(error, "reason", error)) from None
    if response.status != 206:
        return response, 0
    start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if start and int(start[1]) == offset and validator_of(response) == validator:
        return response, offset
    response.close()
    return request(entry, 0, "")


def validator_of(response: HTTPResponse) -> str:
    """Return what identifies this version of the file: a strong ETag or else its date."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def chunks(entry: PublicWeights, response: HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read(CHUNK):
            yield chunk
    except (OSError, HTTPException) as error:
        raise DownloadError(
            f"the connection to {response.url} broke ({error or type(error).__name__}); "
            f"go on with: geoseg weights fetch {entry.name}"
        ) from None


def unreachable(entry: PublicWeights, reason: object) -> DownloadError:
    return DownloadError(
        f"cannot fetch {entry.url} ({reason}); bring the file here by other means, then: "
        f"geoseg weights import {entry.filename} {entry.name}.safetensors --classes isaid"
    )
