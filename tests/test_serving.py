"""Tests of the service over real connections: a real server on a free port, and httpx."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import signal
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import torch
from _serving import CONDITIONAL, PROBLEM, Parabola, Slow, all_kinds, energy_model, server_process, write_conditional
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from torch import Tensor, nn

from helpers import data, generation, zoo
from helpers.__main__ import main
from helpers.generation import LangevinSettings
from helpers.langevin import langevin_dynamics
from helpers.serving import ServedModel, Settings, kind_of, load_models, make_engine, running
from helpers.serving import pictures as serving_pictures
from helpers.serving.app import MAX_UNREAD, _hosts, create_app
from helpers.serving.catalogue import class_names, percentile, serve_model

DIGITS = {"model": "digits-ddpm", "steps": 4, "seed": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """A service with models of every kind."""
    with running(Settings(port=0), make_engine(all_kinds(folder))) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture)


def images_of(client: httpx.Client, body: dict[str, Any]) -> np.ndarray:
    """The pictures of a request (n, H, W[, 3]), bytes."""
    answer = client.post("/v1/images", json=body | {"format": "json"})
    assert answer.status_code == 200, answer.text
    return np.stack([pixels(base64.b64decode(one)) for one in answer.json()["images"]])


def as_bytes(images: Tensor) -> np.ndarray:
    """(N, C, H, W) in [−1, 1] as a PNG would hold them."""
    return data.to_uint8(images).permute(0, 2, 3, 1).squeeze(-1).numpy()


def events(client: httpx.Client, body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = []
    with client.stream("POST", "/v1/images/stream", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        for block in "".join(answer.iter_text()).strip().split("\n\n"):
            name, content = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(content.removeprefix("data: "))))
    return found


# ── models ────────────────────────────────────────────────────────────────


def test_models_tell_what_can_be_asked(client: httpx.Client) -> None:
    models = {one["name"]: one for one in client.get("/v1/models").json()["models"]}
    assert list(models) == ["digits-classifier", "digits-ddpm", "tiny-edm", "tiny-energy"]
    digits, tiny, energy = models["digits-ddpm"], models["tiny-edm"], models["tiny-energy"]
    assert {name: one["kind"] for name, one in models.items()}["digits-classifier"] == "classifier"
    assert models["digits-classifier"]["samplers"] == []
    assert digits["card"] == zoo.card("digits-ddpm")
    assert (digits["kind"], digits["classes"], digits["guidance"]) == ("diffusion", [], None)
    assert digits["steps"] == {"default": 50, "minimum": 1, "maximum": 100}
    assert tiny["classes"] == CONDITIONAL["classes"]
    assert tiny["samplers"][0] == "ipndm"
    assert tiny["guidance"] == {"default": 1, "minimum": 0, "maximum": 20}
    assert (energy["kind"], energy["samplers"], energy["steps"]["default"]) == ("energy", ["langevin"], 20)


@pytest.mark.parametrize(
    ("card", "kind"),
    [
        ({"architecture": {"name": "SimpleUNet"}, "schedule": {"name": "LinearSchedule"}}, "diffusion"),
        ({"architecture": {"name": "FastUNet", "preconditioning": {"name": "EDM"}}, "schedule": None}, "diffusion"),
        ({"architecture": {"name": "EnergyCNN"}}, "energy"),
        (
            {"architecture": {"name": "FastUNet", "energy": {"name": "x"}, "preconditioning": {"name": "EDM"}}},
            "energy",
        ),
        ({"architecture": {"name": "CIFARNet"}, "schedule": None}, "classifier"),
    ],
)
def test_the_kind_of_a_model_follows_from_its_card(card: dict[str, Any], kind: str) -> None:
    assert kind_of(card) == kind


def test_an_energy_that_knows_noise_levels_draws_like_a_diffusion_model_and_compares_pictures() -> None:
    card = CONDITIONAL | {"architecture": CONDITIONAL["architecture"] | {"energy": "inner-product"}}
    network = zoo.build(card["architecture"]).requires_grad_(False)
    served = serve_model("both", card, network, 100)
    assert (served.kind, served.samplers[0], served.guided) == ("energy", "ipndm", True)
    x, sigma = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5, 2.0])
    label = torch.tensor([0, 2])
    assert torch.equal(served.predict(x, sigma, label), network.denoise(x, sigma, label))
    assert torch.equal(served.energies(x), network(x, torch.full((2,), 0.1)))
    other = serve_model("both", card | {"sampling": {"sigma": 0.5}}, network, 100)
    assert torch.equal(other.energies(x), network(x, torch.full((2,), 0.5)))


def test_classes_have_names() -> None:
    architecture = {"arguments": {"n_classes": 10}}
    assert class_names({"architecture": architecture, "shape": [3, 32, 32]}) == tuple(data.CIFAR10.classes)
    assert class_names({"architecture": architecture, "shape": [1, 16, 16]})[9] == "9"
    with pytest.raises(ValueError, match="expected 10 names"):
        class_names({"architecture": architecture, "shape": [1, 16, 16], "classes": ["a"]})


def test_percentiles_are_read_between_the_quantiles() -> None:
    card = {"energy_quantiles": [0.0, 1.0, 1.0, 5.0, 7.0]}
    assert [percentile(card, e) for e in (-1, 0, 0.5, 1, 3, 6, 7, 8)] == [0, 0, 12.5, 25, 62.5, 87.5, 100, 100]
    assert percentile({}, 1.0) is None


def test_langevin_dynamics_may_take_the_steps_of_the_card() -> None:
    settings = {"steps": 300, "step_size": 0.05}
    served = energy_model(max_steps=100, sampling=settings)
    assert (served.default_steps, served.max_steps) == (300, 300)
    few = energy_model(max_steps=100, sampling=settings | {"steps": 20})
    assert (few.default_steps, few.max_steps) == (20, 100)


def test_cards_of_energies_are_checked() -> None:
    assert LangevinSettings.of({"sampling": {"steps": 3}}).steps == 3
    with pytest.raises(ValueError, match="got stepsize"):
        LangevinSettings.of({"sampling": {"stepsize": 3}})


def test_an_operators_folder_is_loaded_by_hash(tmp_path: Path) -> None:
    path = write_conditional(tmp_path, "mine")
    assert "mine" in load_models(Settings(models_dir=tmp_path))
    assert list(load_models(Settings(models_dir=tmp_path, models=("mine",)))) == ["mine"]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="SHA-256 differs"):
        load_models(Settings(models_dir=tmp_path))


@pytest.mark.parametrize(("name", "message"), [(".hidden", None), ("a b", "expected a file name")])
def test_names_of_an_operators_files_are_checked(name: str, message: str | None, tmp_path: Path) -> None:
    write_conditional(tmp_path, "x").rename(tmp_path / f"{name}.safetensors")
    if message is None:
        assert set(load_models(Settings(models_dir=tmp_path))) == set(zoo.available())
    else:
        with pytest.raises(ValueError, match=message):
            load_models(Settings(models_dir=tmp_path))


def test_a_model_of_ones_own_goes_before_the_one_that_ships(tmp_path: Path) -> None:
    write_conditional(tmp_path, "digits-energy")
    [own] = load_models(Settings(models_dir=tmp_path, models=("digits-energy",))).values()
    assert own.classes == ("cat", "dog", "emu")


def test_a_service_needs_models(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a model that draws pictures, got cifarnet"):
        load_models(Settings(models=("cifarnet",)))
    with pytest.raises(ValueError, match="got nothing-here"):
        load_models(Settings(models=("nothing-here",)))
    with pytest.raises(FileNotFoundError, match="no folder of models"):
        load_models(Settings(models_dir=tmp_path / "none"))


# ── pictures ──────────────────────────────────────────────────────────────


def test_pictures_are_those_that_the_library_draws(client: httpx.Client) -> None:
    drawn = generation.draw(zoo.load("digits-ddpm"), zoo.card("digits-ddpm"), 3, seed=5, steps=4).images
    assert np.array_equal(images_of(client, DIGITS | {"n": 3}), as_bytes(drawn))


def test_class_guidance_and_sampler_reach_the_library(client: httpx.Client, folder: Path) -> None:
    model, card = zoo.load_file(folder / "tiny-edm.safetensors")
    chosen = {"seed": 2, "steps": 5, "guidance": 2.5}
    drawn = generation.draw(model, card, 2, label=1, solver="heun", **chosen).images
    body = {"model": "tiny-edm", "n": 2, "class": "dog", "sampler": "heun", **chosen}
    assert np.array_equal(images_of(client, body), as_bytes(drawn))
    assert np.array_equal(images_of(client, body | {"class": 1}), as_bytes(drawn))
    for change in ({"class": "cat"}, {"guidance": 1.0}, {"sampler": "euler"}, {"seed": 3}, {"steps": 6}):
        assert not np.array_equal(images_of(client, body | change), as_bytes(drawn)), change


def test_a_mixture_draws_each_class_by_its_weight(client: httpx.Client) -> None:
    body = {"model": "tiny-edm", "n": 36, "steps": 1, "seed": 1, "format": "json", "class": {"cat": 3, "emu": 1}}
    classes = client.post("/v1/images", json=body).json()["classes"]
    assert set(classes) == {"cat", "emu"}
    assert 20 <= classes.count("cat") <= 34  # expected 27, standard deviation 2.6
    fewer = client.post("/v1/images", json=body | {"n": 10}).json()["classes"]
    assert fewer == classes[:10]
    other = client.post("/v1/images", json=body | {"seed": 2}).json()["classes"]
    assert other != classes
    [only] = set(client.post("/v1/images", json=body | {"class": {"dog": 0.5}}).json()["classes"])
    assert only == "dog"


def test_without_a_class_all_come_in_turn(client: httpx.Client) -> None:
    body = {"model": "tiny-edm", "n": 5, "steps": 1, "format": "json"}
    assert client.post("/v1/images", json=body).json()["classes"] == ["cat", "dog", "emu", "cat", "dog"]


def test_langevin_pictures_are_those_of_the_library(client: httpx.Client) -> None:
    generator = torch.Generator().manual_seed(7)
    x = 2 * torch.rand(2, 1, 8, 8, generator=generator) - 1
    x = langevin_dynamics(Parabola(), x, 6, 0.05, 0.01, clamp=(-1, 1), generator=generator)
    assert np.array_equal(images_of(client, {"model": "tiny-energy", "n": 2, "seed": 7, "steps": 6}), as_bytes(x))


def test_requests_at_the_same_time_get_what_they_get_alone(client: httpx.Client) -> None:
    """Mixed models, steps, samplers, classes and guidance at once: within one grey level of 256."""
    bodies = [DIGITS | {"n": 1 + k % 3, "seed": k, "steps": 3 + k % 3} for k in range(8)]
    solvers = ("ipndm", "heun", "euler", "unipc")
    bodies += [
        {"model": "tiny-edm", "seed": k, "steps": 4, "class": k % 3, "guidance": 1 + k % 2, "sampler": solvers[k % 4]}
        for k in range(8)
    ]
    alone = [images_of(client, body).astype(int) for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        together = list(pool.map(lambda body: images_of(client, body).astype(int), bodies))
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one - other).max() <= 1


def test_formats_hold_the_same_pictures(client: httpx.Client) -> None:
    body = DIGITS | {"n": 5, "scale": 2}
    single = images_of(client, body)
    grid = client.post("/v1/images", json=body)
    assert grid.headers["content-type"] == "image/png"
    assert grid.headers["x-seed"] == "5"
    picture = pixels(grid.content)
    assert picture.shape == (3 * 34 + 2, 2 * 34 + 2, 3)
    assert np.array_equal(picture[2:34, 2:34, 0], single[0])
    assert np.array_equal(picture[36:68, 36:68, 0], single[3])
    archive = client.post("/v1/images", json=body | {"format": "zip"})
    with zipfile.ZipFile(io.BytesIO(archive.content)) as files:
        assert files.namelist() == [f"00{k}.png" for k in range(5)] + ["request.json"]
        assert all(np.array_equal(pixels(files.read(f"00{k}.png")), single[k]) for k in range(5))
        again = json.loads(files.read("request.json"))
    assert client.post("/v1/images", json=again).content == archive.content
    with Image.open(io.BytesIO(grid.content)) as opened:
        again = json.loads(opened.text["request"])
    assert client.post("/v1/images", json=again).content == grid.content
    found = events(client, {name: value for name, value in body.items() if name != "format"})
    assert base64.b64decode(found[-1][1]["image"]) == grid.content


def test_a_seed_that_the_service_chose_can_be_used_again(client: httpx.Client) -> None:
    body = {"model": "tiny-edm", "steps": 2, "guidance": 1.5, "class": {"cat": 1, "dog": 1}}
    answer = client.post("/v1/images", json=body)
    seed = int(answer.headers["x-seed"])
    assert client.post("/v1/images", json=body | {"seed": seed}).content == answer.content
    assert int(client.post("/v1/images", json=body).headers["x-seed"]) != seed


def test_whole_numbers_may_be_written_as_floats(client: httpx.Client) -> None:
    assert client.post("/v1/images", json=DIGITS | {"n": 2.0, "steps": 4.0, "seed": 5.0}).status_code == 200


# ── streams ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "body",
    [
        DIGITS | {"n": 2, "steps": 12},
        {"model": "tiny-edm", "n": 2, "steps": 12, "guidance": 2.0, "class": "emu", "seed": 5},
        {"model": "tiny-energy", "n": 2, "steps": 12, "seed": 5},
    ],
    ids=["discrete", "continuous", "langevin"],
)
def test_a_stream_shows_the_way_and_ends_with_the_picture(client: httpx.Client, body: dict[str, Any]) -> None:
    found = events(client, body | {"frames": 6})
    names = [name for name, _ in found if name != "progress"]
    calls = [content["evaluation"] for name, content in found if name in {"progress", "state"}]
    assert calls == list(range(12))
    assert {content["of"] for name, content in found if name in {"progress", "state"}} == {12}
    states = [content for name, content in found if name == "state"]
    assert names == ["queued", *["state"] * len(states), "done"]
    assert 4 <= len(states) <= 6
    done = [state["done"] for state in states]
    assert done == sorted(done)
    assert done[0] < 0.01
    assert done[-1] < 1
    assert len({state["image"] for state in states}) == len(states)
    result = found[-1][1]
    assert base64.b64decode(result["image"])
    assert np.array_equal(
        pixels(base64.b64decode(result["image"])), pixels(client.post("/v1/images", json=body).content)
    )
    assert result["seed"] == 5
    assert result["classes"] == (["emu", "emu"] if body["model"] == "tiny-edm" else None)


def test_a_stream_starts_from_the_noise_of_the_seed(client: httpx.Client) -> None:
    noise = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(5))
    first = next(content for name, content in events(client, DIGITS) if name == "state")
    assert np.array_equal(pixels(base64.b64decode(first["image"]))[..., 0], as_bytes(noise)[0])


def test_states_of_continuous_noise_are_on_the_scale_of_noise(client: httpx.Client) -> None:
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(5)) * 80 / (1 + 80**2) ** 0.5
    body = {"model": "tiny-edm", "steps": 4, "seed": 5, "guidance": 2.0}
    first = next(content for name, content in events(client, body) if name == "state")
    assert np.abs(pixels(base64.b64decode(first["image"])).astype(int) - as_bytes(noise)[0]).max() <= 1


# ── energies ──────────────────────────────────────────────────────────────


def png(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def energy_of(client: httpx.Client, content: bytes, media_type: str = "image/png", name: str = "tiny-energy") -> Any:
    return client.post(f"/v1/energy?model={name}", content=content, headers={"Content-Type": media_type})


def test_the_energy_of_a_picture(client: httpx.Client) -> None:
    grey = np.full((8, 8), 51, np.uint8)  # −0.6
    answer = energy_of(client, png(grey)).json()
    assert answer["energy"] == pytest.approx(64 * 1.1**2 / 2, rel=1e-5)
    assert answer["percentile"] == pytest.approx(100 * (64 * 1.1**2 / 2) / 40, rel=1e-5)
    assert answer["model"] == "tiny-energy"


def test_the_energy_that_ships_draws_and_compares() -> None:
    """Against the library: its pictures, its energies at the card's noise level, and the shares of the test set."""
    network, card = zoo.load("digits-energy"), zoo.card("digits-energy")
    digits = torch.nn.functional.avg_pool2d(data.digits().test, 2)  # 8 × 8, as the model's own data
    content = png(data.to_uint8(digits[3])[0].numpy())
    x = data.from_uint8(data.to_uint8(digits))
    energies = network(x, torch.full((len(x),), card["sampling"]["sigma"]))
    with running(Settings(port=0, models=("digits-energy",))) as url, httpx.Client(base_url=url, timeout=60) as client:
        answer = energy_of(client, content, name="digits-energy").json()
        drawn = generation.draw(network, card, 2, seed=3, steps=5).images
        found = images_of(client, {"model": "digits-energy", "n": 2, "seed": 3, "steps": 5})
    assert np.array_equal(found, as_bytes(drawn))
    assert answer["energy"] == pytest.approx(energies[3].item(), abs=1e-3)
    assert answer["percentile"] == pytest.approx(percentile(card, answer["energy"]))


def test_pictures_of_other_sizes_and_kinds_become_the_models_size(client: httpx.Client) -> None:
    colour = np.full((40, 60, 3), 255, np.uint8)
    content = io.BytesIO()
    Image.fromarray(colour).save(content, "JPEG")
    for answer in (energy_of(client, png(colour)), energy_of(client, content.getvalue(), "image/jpeg; q=1")):
        assert answer.json()["energy"] == pytest.approx(64 * 0.5**2 / 2, rel=1e-4)


def test_only_energies_have_energies(client: httpx.Client) -> None:
    answer = energy_of(client, png(np.zeros((8, 8), np.uint8)), name="digits-ddpm")
    assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)
    [mistake] = answer.json()["errors"]
    assert (mistake["field"], mistake["limit"], mistake["value"]) == ("model", ["tiny-energy"], "digits-ddpm")
    assert "digits-classifier" in mistake["message"]


# ── operation ─────────────────────────────────────────────────────────────


def test_health_and_metrics(client: httpx.Client) -> None:
    for prefix in ("", "/v1"):
        assert client.get(f"{prefix}/healthz").json()["status"] == "ok"
        assert client.get(f"{prefix}/readyz").json() == {"status": "ready", "running": 0, "waiting": 0}

    def read() -> dict[tuple[str, ...], float]:
        text = client.get("/metrics").text
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    before = read()
    client.post("/v1/images", json=DIGITS | {"n": 3})
    client.post("/v1/images", json=DIGITS | {"n": 0})
    client.get("/no/such/../thing")
    after = read()

    def rise(*key: str) -> float:
        return after.get(key, 0) - before.get(key, 0)

    assert rise("course_requests_total", "/v1/images", "200", "POST") == 1
    assert rise("course_requests_total", "/v1/images", "422", "POST") == 1
    assert rise("course_requests_total", "404", "GET", "other") == 1
    assert rise("course_images_total", "digits-ddpm") == 3
    assert rise("course_batch_images_sum") == 12
    assert rise("course_batch_images_count") == 4
    assert rise("course_jobs_total", "done") == 1
    assert after["course_running_requests",] == after["course_waiting_requests",] == 0


def test_answers_carry_an_id_and_headers_that_keep_browsers_in(client: httpx.Client) -> None:
    first, second = client.get("/v1/models"), client.get("/")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert second.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in second.headers["content-security-policy"]
    assert "access-control-allow-origin" not in client.get("/v1/models", headers={"Origin": "https://x.org"}).headers


def test_an_operator_may_let_other_sites_in() -> None:
    settings = Settings(port=0, cors_origins=("https://x.org",))
    with running(settings, make_engine({"tiny-energy": energy_model()})) as url:
        headers = {"Origin": "https://x.org", "Access-Control-Request-Method": "POST"}
        headers["Access-Control-Request-Headers"] = "content-type"
        answer = httpx.options(f"{url}/v1/images", headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://x.org"
        headers["Origin"] = "https://y.org"
        assert "access-control-allow-origin" not in httpx.options(f"{url}/v1/images", headers=headers).headers


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/models", "/metrics", "/docs", "/openapi.json"])
def test_head_is_get_without_the_body(client: httpx.Client, path: str) -> None:
    whole, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]
    if path != "/metrics":  # which changes
        assert head.headers["content-length"] == str(len(whole.content))
    assert client.head("/v1/images").status_code == 405
    metrics = client.get("/metrics").text
    assert 'method="HEAD",path="/v1/images",status="405"' in metrics


def test_docs_are_served(client: httpx.Client) -> None:
    answer = client.get("/docs", follow_redirects=True)
    assert answer.status_code == 200
    assert "/openapi.json" in answer.text or "openapi" in answer.json()
    assert "http://" not in answer.text.replace("http://127", "")


# ── load, leaving, ending ─────────────────────────────────────────────────


SLOW = {"model": "tiny-energy", "steps": 100, "n": 1}


def slow_model(seconds: float = 0.02) -> dict[str, ServedModel]:
    return {"tiny-energy": energy_model(Slow(seconds))}


def health_until(url: str, condition: Callable[[dict[str, Any]], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition(health := httpx.get(f"{url}/healthz").json()):
        assert time.monotonic() < end, health
        time.sleep(0.01)


@pytest.mark.parametrize("path", ["/v1/images", "/v1/images/stream"])
def test_a_client_that_goes_away_frees_its_slot(path: str) -> None:
    settings = Settings(port=0, batch_images=1)
    engine = make_engine(slow_model(), settings)

    with running(settings, engine) as url:
        start = time.monotonic()
        if path.endswith("stream"):
            with httpx.stream("POST", f"{url}{path}", json=SLOW) as answer:
                next(answer.iter_text())
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}{path}", json=SLOW, timeout=0.2)
        health_until(url, lambda health: health["running"] == 0)
        assert time.monotonic() - start < 1.5  # the whole work takes 2 s
        assert httpx.post(f"{url}/v1/images", json=SLOW | {"steps": 2}).status_code == 200
        assert engine.metrics.registry.get_sample_value("course_jobs_total", {"outcome": "cancelled"}) == 1


def test_a_full_queue_answers_429_and_loses_nobody() -> None:
    settings = Settings(port=0, batch_images=1, queue_size=1)
    with running(settings, make_engine(slow_model(), settings)) as url, ThreadPoolExecutor(8) as pool:

        def ask(k: int) -> httpx.Response:
            return httpx.post(f"{url}/v1/images", json=SLOW | {"steps": 20, "seed": k}, timeout=30)

        answers = list(pool.map(ask, range(8)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert 2 <= statuses.count(200) <= 4
    for answer in answers:
        if answer.status_code == 429:
            assert answer.headers["content-type"] == PROBLEM
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["title"] == "The queue is full"


def test_a_stream_tells_how_many_are_before_it() -> None:
    settings = Settings(port=0, batch_images=1)
    with running(settings, make_engine(slow_model(0.01), settings)) as url, ThreadPoolExecutor(3) as pool:

        def watch(k: int) -> list[tuple[str, dict[str, Any]]]:
            with httpx.Client(base_url=url, timeout=30) as client:
                return events(client, SLOW | {"steps": 30, "seed": k})

        found = list(pool.map(watch, range(3)))
    assert sorted(one[0][1]["position"] for one in found) == [0, 1, 2]
    assert all(one[-1][0] == "done" for one in found)


def test_work_that_fails_is_a_500_without_a_word_of_the_inside(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("secret")

    with running(Settings(port=0), make_engine({"tiny-energy": energy_model(Broken())})) as url:
        answer = httpx.post(f"{url}/v1/images", json=SLOW)
        assert (answer.status_code, answer.headers["content-type"]) == (500, PROBLEM)
        assert "secret" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"
        [record] = caplog.records
        assert answer.headers["x-request-id"] in record.getMessage()
        assert "secret" in str(record.exc_info)
        metrics = httpx.get(f"{url}/metrics").text
        assert 'course_requests_total{method="POST",path="/v1/images",status="500"} 1.0' in metrics
        caplog.clear()
        with httpx.Client(base_url=url) as client:
            name, content = events(client, SLOW)[-1]
        assert (name, content["status"]) == ("problem", 500)
        [record] = caplog.records
        assert "secret" in str(record.exc_info)
        assert httpx.get(f"{url}/healthz").status_code == 200


def call(application: Any, path: str, body: list[Any], headers: dict[str, str], send: Any) -> Any:
    """One request without a connection: ``body`` are messages, after which nothing comes any more."""
    messages = iter(body)

    async def receive() -> Any:
        if (message := next(messages, None)) is not None:
            return message
        return await asyncio.Event().wait()

    raw = [(name.lower().encode(), value.encode()) for name, value in {"Host": "localhost", **headers}.items()]
    address, _, query = path.partition("?")
    scope = {"type": "http", "method": "POST", "path": address, "query_string": query.encode(), "headers": raw}
    return application(scope | {"http_version": "1.1", "scheme": "http", "server": ("localhost", 80)}, receive, send)


def test_a_stream_that_nobody_reads_keeps_few_pictures() -> None:
    engine, sent = make_engine(slow_model(0.0)), []

    async def watch() -> None:
        reading = asyncio.Event()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                await reading.wait()
                sent.append(message["body"].decode())

        body = json.dumps(SLOW | {"steps": 60, "frames": 60}).encode()
        asked = [{"type": "http.request", "body": body, "more_body": False}]
        headers = {"Content-Type": "application/json"}
        task = asyncio.create_task(call(create_app(Settings(), engine), "/v1/images/stream", asked, headers, send))
        while engine.metrics.registry.get_sample_value("course_jobs_total", {"outcome": "done"}) != 1:
            await asyncio.sleep(0.01)
        reading.set()
        await task

    engine.start()
    try:
        asyncio.run(asyncio.wait_for(watch(), 30))
    finally:
        engine.close()
    found = "".join(sent)
    assert MAX_UNREAD <= found.count("event: state") <= MAX_UNREAD + 2
    assert found.count("event: state") + found.count("event: progress") == 60  # it still says how far it is
    assert found.count("event: done") == 1


def test_an_upload_that_breaks_off_is_no_error() -> None:
    engine, sent = make_engine({"tiny-energy": energy_model(Parabola())}), []

    async def send(message: Any) -> None:
        sent.append(message)

    pieces = [{"type": "http.request", "body": b"abc", "more_body": True}, {"type": "http.disconnect"}]
    headers = {"Content-Type": "image/png", "Content-Length": "100"}
    asyncio.run(call(create_app(Settings(), engine), "/v1/energy?model=tiny-energy", pieces, headers, send))
    assert sent[0]["status"] == 499


def test_decoding_an_upload_waits_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes time, too, and a full queue refuses before it is spent."""
    gate, begun, decode = threading.Event(), threading.Semaphore(0), serving_pictures.decode

    def wait(*arguments: Any) -> Tensor:
        begun.release()
        gate.wait(10)
        return decode(*arguments)

    monkeypatch.setattr(serving_pictures, "decode", wait)
    settings = Settings(port=0, batch_images=1, queue_size=1)
    engine = make_engine({"tiny-energy": energy_model(Parabola())}, settings)
    picture = io.BytesIO()
    Image.new("L", (8, 8)).save(picture, "PNG")
    with running(settings, engine) as url, ThreadPoolExecutor(2) as pool:

        def ask() -> int:
            headers = {"Content-Type": "image/png"}
            address = f"{url}/v1/energy?model=tiny-energy"
            return httpx.post(address, content=picture.getvalue(), headers=headers, timeout=30).status_code

        first = pool.submit(ask)
        assert begun.acquire(timeout=10)
        second = pool.submit(ask)
        health_until(url, lambda health: health["waiting"] == 1)
        assert ask() == 429
        gate.set()
        assert (first.result(), second.result()) == (200, 200)


def test_a_connection_that_does_not_ask_in_time_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.serving.server.HEAD_SECONDS", 0.3)
    with running(Settings(port=0), make_engine(slow_model())) as url:
        parts = urlsplit(url)
        for start in (b"", b"POST /v1/im", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
                connection.sendall(start)
                try:
                    while connection.recv(65536):
                        pass  # the answer to what was whole, and then the end
                except ConnectionResetError:
                    pass
        # What takes longer, once it was asked, is not cut off.
        assert httpx.post(f"{url}/v1/images", json=SLOW | {"steps": 40}).status_code == 200


def test_sigterm_finishes_what_has_begun() -> None:
    """In a process of its own: the answer arrives, new connections do not, and the process ends with 0."""
    with server_process() as (process, url):
        answers: list[httpx.Response] = []
        body = {"model": "digits-ddpm", "n": 36, "steps": 40, "seed": 1}
        thread = threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/v1/images", json=body, timeout=60)))
        thread.start()
        health_until(url, lambda health: health["running"] == 1)
        process.send_signal(signal.SIGTERM)
        thread.join(60)
        assert process.wait(30) == 0
        assert answers[0].status_code == 200
        assert len(pixels(answers[0].content)) == 6 * 17 + 1
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/healthz")


LONG = {"model": "cifar10-edm", "n": 16, "steps": 100, "seed": 1}  # takes far longer than these tests


@contextmanager
def asked_for_long_work(*, drain_seconds: float) -> Iterator[tuple[Any, list[httpx.Response]]]:
    """A process that works on one request and one stream, has a third one waiting, and what they will get."""
    limits = {"COURSE_SERVE_DRAIN_SECONDS": str(drain_seconds), "COURSE_SERVE_MODELS": "cifar10-edm"}
    with server_process(**limits) as (process, url), ThreadPoolExecutor(3) as pool:
        asked = [
            pool.submit(httpx.post, f"{url}/v1/images{path}", json=LONG, timeout=120) for path in ("", "/stream", "")
        ]
        health_until(url, lambda health: (health["running"], health["waiting"]) == (1, 2), 60)
        answers: list[httpx.Response] = []
        yield process, answers
        answers += [one.result(60) for one in asked]
        said = process.stdout.read()
        assert "Traceback" not in said, said
        assert "Exception" not in said, said


def has_been_told(answers: list[httpx.Response]) -> bool:
    """Whether all have been told that the service has stopped, in the form of their answers."""
    told = []
    for answer in answers:
        if answer.headers["content-type"] == PROBLEM:
            told.append(answer.json()["status"] == answer.status_code == 503 and "retry-after" in answer.headers)
        else:
            name, content = answer.text.strip().split("\n\n")[-1].split("\n")
            told.append(name == "event: problem" and json.loads(content.removeprefix("data: "))["status"] == 503)
    return told == [True] * 3


def test_what_is_not_done_when_the_drain_time_is_over_is_answered_503() -> None:
    """In a process of its own, with a request, a stream, and one in the queue: no 500, no traceback, exit code 0."""
    with asked_for_long_work(drain_seconds=1) as (process, answers):
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert has_been_told(answers)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM], ids=lambda sent: sent.name)
def test_a_second_ctrl_c_ends_it_at_once(first: signal.Signals) -> None:
    with asked_for_long_work(drain_seconds=300) as (process, answers):
        process.send_signal(first)
        time.sleep(0.5)
        assert process.poll() is None  # it drains
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.wait(60) == 130
        assert time.monotonic() - start < 5  # the evaluations that are left take minutes
    assert has_been_told(answers)


def test_a_body_that_never_comes_does_not_hold_up_the_end() -> None:
    limits = {"COURSE_SERVE_DRAIN_SECONDS": "0", "COURSE_SERVE_BODY_SECONDS": "2"}
    with server_process("--models", "digits-ddpm", **limits) as (process, url):
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
            lines = ["POST /v1/images HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json"]
            connection.sendall("\r\n".join([*lines, "Content-Length: 99", "", "{"]).encode())
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert process.wait(30) == 0
        assert answer.startswith(b"HTTP/1.1 408")
        assert "Traceback" not in process.stdout.read()


def test_draining_refuses_new_work() -> None:
    settings = Settings(port=0)
    engine = make_engine({"tiny-energy": energy_model()}, settings)
    with running(settings, engine) as url:
        engine.drain()
        answer = httpx.post(f"{url}/v1/images", json=SLOW)
        assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM)
        assert answer.headers["retry-after"]
        assert httpx.get(f"{url}/readyz").status_code == 503
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_what_cannot_be_drained_in_time_is_told_so() -> None:
    settings = Settings(port=0, drain_seconds=0)
    answers: list[httpx.Response | Exception] = []

    def ask(url: str) -> None:
        try:
            answers.append(httpx.post(f"{url}/v1/images", json=SLOW | {"steps": 100}, timeout=30))
        except httpx.HTTPError as error:
            answers.append(error)

    with running(settings, make_engine(slow_model(0.1), settings)) as url:
        thread = threading.Thread(target=ask, args=(url,))
        thread.start()
        health_until(url, lambda health: health["running"] == 1)
        start = time.monotonic()
    assert time.monotonic() - start < 6  # the whole work takes 10 s
    thread.join(10)
    [answer] = answers
    assert answer.status_code == 503, answer


# ── the command ───────────────────────────────────────────────────────────


def test_an_address_in_use_is_said_before_models_are_loaded(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert main(["serve", "--port", url.rsplit(":", 1)[1]]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "99999"], "port: expected at most 65535, got 99999 (COURSE_SERVE_PORT)\n"),
        (["--models", "no-such"], "expected models out of"),
        (["--models-dir", "no-such-folder"], "no folder of models"),
    ],
)
def test_wrong_options_are_explained(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said


def test_without_the_extra_the_command_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("helpers.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delattr("helpers.serving", raising=False)
    assert main(["serve"]) == 2
    assert "[serve]" in capsys.readouterr().err


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_SERVE_QUEUE_SIZE", "7")
    monkeypatch.setenv("COURSE_SERVE_CORS_ORIGINS", '["https://x.org"]')
    monkeypatch.setenv("COURSE_SERVE_MODELS", "digits-ddpm, digits-energy")
    monkeypatch.setenv("COURSE_SERVE_ALLOWED_HOSTS", "example.org")
    assert Settings().queue_size == 7
    assert Settings(queue_size=8).queue_size == 8
    assert Settings().cors_origins == ("https://x.org",)
    assert Settings().models == ("digits-ddpm", "digits-energy")
    assert Settings(models=["digits-ddpm"]).models == ("digits-ddpm",)
    assert Settings().allowed_hosts == ("example.org",)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("QUEU_SIZE", "8", "got COURSE_SERVE_QUEU_SIZE: is COURSE_SERVE_QUEUE_SIZE meant?"),
        ("QUEUE_SIZE", "many", "queue_size: expected an integer, got 'many' (COURSE_SERVE_QUEUE_SIZE)"),
        ("BODY_SECONDS", "0", "body_seconds: expected more than 0, got '0'"),
        ("MAX_GUIDANCE", "nan", "max_guidance: expected a"),
        ("MODELS", '["digits-ddpm"', "models: expected names with commas between them, or a list in JSON, got '["),
        ("MODELS", "[1]", "models: expected text, got 1 "),
    ],
)
def test_wrong_settings_are_explained(name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"COURSE_SERVE_{name}", value)
    with pytest.raises(ValueError, match=re.escape(message)) as found:
        Settings()
    assert "pydantic" not in str(found.value)


def test_settings_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^expected a setting that there is, got ports$"):
        Settings(ports=1)


@pytest.mark.parametrize(
    ("host", "hosts"),
    [
        ("127.0.0.1", ("127.0.0.1", "localhost", "[::1]")),
        ("localhost", ("127.0.0.1", "localhost", "[::1]")),
        ("127.0.0.2", ("127.0.0.1", "localhost", "[::1]", "127.0.0.2")),
        ("::1", ("127.0.0.1", "localhost", "[::1]")),
        ("0.0.0.0", ()),
        ("box.example", ()),
    ],
)
def test_a_local_service_answers_to_local_names_only(host: str, hosts: tuple[str, ...]) -> None:
    assert _hosts(Settings(host=host)) == hosts
    assert _hosts(Settings(host=host, allowed_hosts=("a.org",))) == ("a.org",)


def test_an_address_that_is_all_addresses_is_printed_as_one_that_opens() -> None:
    with server_process("--host", "0.0.0.0", "--models", "digits-ddpm") as (_, url):
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{url}/readyz").status_code == 200
