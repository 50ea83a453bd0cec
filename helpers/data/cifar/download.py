"""Two places that CIFAR-10 comes from: a mirror as Parquet, and the official host.

The mirror is the dataset ``uoft-cs/cifar10`` on the Hugging Face hub, or on the host that ``HF_ENDPOINT`` names. A
broken download goes on where it stopped, in this run or the next; where the host tells a file's SHA-256, it is checked.
The official host is asked through torchvision, which checks the MD5 of what comes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from .images import CIFAR10, SPLITS, checked
from .parquet import read_parquet

__all__ = ["REPOSITORY", "from_mirror", "from_official_host", "mirror_address", "official_address"]

REPOSITORY = "uoft-cs/cifar10"


def mirror_address() -> str:
    """The hub's address: ``HF_ENDPOINT``, if it is set."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def official_address() -> str:
    """The official archive's address, as torchvision has it."""
    from torchvision import datasets

    return datasets.CIFAR10.url


def from_mirror(folder: Path, per_class: Mapping[str, int]) -> CIFAR10:
    """Download the two Parquet files and read them.

    Args:
        folder: Where to put them; files of an interrupted run are taken from here.
        per_class: As in :func:`.images.checked`.

    Raises:
        ImportError: If ``huggingface_hub`` or ``pyarrow`` is not installed.
        ValueError: If what came is not CIFAR-10; it is removed.
        Exception: Whatever the hub's client raises when the host cannot be reached.
    """
    try:
        import huggingface_hub  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(f'needs {error.name}: pip install "diffusion-ebm-course[train]"') from error
    folder.mkdir(parents=True, exist_ok=True)
    with _bars_as_tqdm_says():
        files = {split: _fetch(f"plain_text/{split}-00000-of-00001.parquet", folder) for split in SPLITS}
    try:
        source = f"dataset {REPOSITORY} from {mirror_address()}"
        return read_parquet({split: [file] for split, file in files.items()}, source, per_class)
    except ValueError:
        for file in files.values():
            file.unlink(missing_ok=True)
        raise


def _fetch(name: str, folder: Path) -> Path:
    """A file of the dataset; what an earlier run has got of the same version is kept."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get

    # No token: the dataset is public, and the address may be anybody's.
    remote = get_hf_file_metadata(
        hf_hub_url(REPOSITORY, name, repo_type="dataset", endpoint=mirror_address()), token=False
    )
    version = hashlib.sha256(f"{mirror_address()} {remote.etag} {remote.size}".encode()).hexdigest()[:16]
    whole = folder / f"{version}-{Path(name).name}"
    part = whole.with_suffix(".part")
    if whole.exists():
        return whole
    if remote.etag is None or remote.size is None or (part.exists() and part.stat().st_size > remote.size):
        part.unlink(missing_ok=True)  # nothing tells whether the rest would fit
    with part.open("ab") as file:
        http_get(remote.location, file, resume_size=file.tell(), expected_size=remote.size)
    if re.fullmatch("[0-9a-f]{64}", remote.etag or "") and _sha256(part) != remote.etag:
        part.unlink()
        raise ValueError(f"{name}: the SHA-256 of what came is not the one that {mirror_address()} tells")
    os.replace(part, whole)
    return whole


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _bars_as_tqdm_says() -> Iterator[None]:
    """Hide the hub's progress bars too where ``TQDM_DISABLE`` hides tqdm's."""
    from huggingface_hub import utils

    if os.environ.get("TQDM_DISABLE", "0").lower() in {"", "0", "false"} or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def from_official_host(folder: Path, per_class: Mapping[str, int]) -> CIFAR10:
    """Download the official archive with torchvision, which checks its MD5, and unpack it.

    Args:
        folder: Where to put it.
        per_class: As in :func:`.images.checked`.

    Raises:
        Exception: Whatever torchvision raises when the host cannot be reached or the archive is broken.
    """
    from torchvision import datasets  # takes a second to import, which nothing else here needs

    splits = {}
    for split in SPLITS:
        loaded = datasets.CIFAR10(folder, train=split == "train", download=True)
        images = torch.from_numpy(loaded.data).permute(0, 3, 1, 2).contiguous()
        splits[split] = images, torch.tensor(loaded.targets, dtype=torch.int64)
    return checked(splits, f"official archive from {official_address()}", per_class)
