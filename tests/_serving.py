"""What several tests of the service need: small models of kinds that do not ship, and servers of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers import training, zoo
from helpers.serving import ServedModel, Settings, load_models
from helpers.serving.catalogue import serve_model

PROBLEM = "application/problem+json"

CONDITIONAL: dict[str, Any] = {
    "name": "tiny-edm",
    "summary": "Untrained: three classes, continuous noise.",
    "architecture": {
        "name": "FastUNet",
        "arguments": {"n_classes": 3, "channels": [64, 64], "blocks": [1, 1, 1, 1], "emb_channels": 16},
        "preconditioning": {"name": "EDM", "sigma_data": 0.5},
    },
    "shape": [3, 8, 8],
    "schedule": None,
    "classes": ["cat", "dog", "emu"],
}
ENERGY: dict[str, Any] = {
    "name": "tiny-energy",
    "summary": "A parabola around a grey picture.",
    "architecture": {"name": "EnergyParabola", "arguments": {}},
    "shape": [1, 8, 8],
    "sampling": {"steps": 20, "step_size": 0.05, "temperature": 0.01},
    "energy_quantiles": [0.0, 10.0, 20.0, 30.0, 40.0],
}


class Parabola(nn.Module):
    """E(x) = ‖x − ½‖²/2 a picture."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B,)."""
        return (x - 0.5).square().flatten(1).sum(1) / 2


class Slow(nn.Module):
    """An energy that takes its time."""

    def __init__(self, seconds: float = 0.02) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B,)."""
        time.sleep(self.seconds)
        return x.square().flatten(1).sum(1)


def write_conditional(folder: Path, name: str = "tiny-edm") -> Path:
    """A class-conditional model with random weights, as training would have written it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = zoo.build(CONDITIONAL["architecture"])
        for parameter in model.parameters():
            if not parameter.any():  # layers that start at zero would hide class and time
                nn.init.normal_(parameter, std=0.05)
    return training.save_checkpoint(folder / f"{name}.safetensors", {"ema": model}, CONDITIONAL | {"name": name})


def energy_model(network: nn.Module | None = None, max_steps: int = 100, **card: Any) -> ServedModel:
    """A stand-in of kind energy."""
    return serve_model("tiny-energy", ENERGY | card, network or Parabola(), max_steps)


def all_kinds(folder: Path, max_steps: int = 100) -> dict[str, ServedModel]:
    """Two that ship, a class-conditional one and an energy; whatever else may ship."""
    write_conditional(folder)
    names = ("digits-classifier", "digits-ddpm", "tiny-edm")
    models = load_models(Settings(models_dir=folder, models=names, max_steps=max_steps))
    return models | {"tiny-energy": energy_model(max_steps=max_steps)}


@contextmanager
def server_process(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``python -m helpers serve --port 0`` in a process of its own, and its address."""
    command = [sys.executable, "-m", "helpers", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.match(r"listening on (http://\S+)", line):
                break
        else:
            raise AssertionError(f"the service did not start: {''.join(said)}")
        yield process, found.group(1)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()
