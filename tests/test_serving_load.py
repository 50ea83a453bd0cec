"""The service under load: ``pytest -m load`` (two minutes; alone on the machine, or it measures something else)."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from _serving import server_process

from helpers import zoo
from helpers.generation import draw

pytestmark = pytest.mark.load

CLIENTS, SECONDS = 64, int(os.environ.get("LOAD_SECONDS", "60"))
BODY = {"model": "digits-ddpm", "steps": 10}


def throughput(url: str, clients: int, seconds: float) -> float:
    """Pictures a second, asked for by so many light clients at the same time."""

    async def ask(client: httpx.AsyncClient, end: float) -> int:
        done = 0
        while time.monotonic() < end:
            answer = await client.post("/v1/images", json=BODY | {"seed": done})
            assert answer.status_code == 200
            done += 1
        return done

    async def all_of_them() -> float:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            start = time.monotonic()
            done = await asyncio.gather(*(ask(client, start + seconds) for _ in range(clients)))
            return sum(done) / (time.monotonic() - start)

    return asyncio.run(all_of_them())


@contextmanager
def memory_watched(pid: int) -> Iterator[list[tuple[float, float]]]:
    """(Seconds, MB) of a process twice a second."""
    psutil = pytest.importorskip("psutil")
    process, samples, stop, start = psutil.Process(pid), [], threading.Event(), time.monotonic()

    def watch() -> None:
        while not stop.wait(0.5):
            samples.append((time.monotonic() - start, process.memory_info().rss / 1e6))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def test_many_clients_are_served_and_none_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """64 clients without a pause: every request answered with 200, at 80 % of the batched throughput alone at least."""
    if importlib.util.find_spec("locust") is None:  # importing it here would change sockets for all tests
        pytest.skip("locust is not installed")
    with server_process() as (process, url):
        throughput(url, 16, 3)  # warm
        alone = throughput(url, 16, 10)
        command = [sys.executable, "-m", "locust", "-f", str(Path(__file__).parent / "_locustfile.py"), "--headless"]
        command += ["--host", url, "-u", str(CLIENTS), "-r", str(CLIENTS), "-t", f"{SECONDS}s", "--stop-timeout", "30"]
        with memory_watched(process.pid) as samples:
            run = subprocess.run([*command, "--json", "--only-summary"], capture_output=True, text=True, cwd=tmp_path)
        metrics = httpx.get(f"{url}/metrics").text
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok", "running": 0, "waiting": 0}
    assert run.returncode == 0, run.stderr[-3000:]
    [row] = json.loads(run.stdout)
    took = row["last_request_timestamp"] - row["start_time"]
    rate = row["num_requests"] / took
    times = sorted(float(ms) for ms, n in row["response_times"].items() for _ in range(n))
    p50, p95, p99 = (times[int(share * (len(times) - 1))] for share in (0.5, 0.95, 0.99))
    early = statistics.median(mb for second, mb in samples if 0.2 * SECONDS < second < 0.4 * SECONDS)
    late = statistics.median(mb for second, mb in samples if 0.8 * SECONDS < second < SECONDS)
    with capsys.disabled():
        print(f"\n{CLIENTS} clients, {took:.0f} s: {row['num_requests']} answers, {row['num_failures']} failures")
        print(f"{rate:.1f} pictures/s (alone, 16 clients: {alone:.1f}), p50 {p50:.0f}, p95 {p95:.0f}, p99 {p99:.0f} ms")
        print(f"memory {early:.0f} MB early, {late:.0f} MB late")
    assert row["num_failures"] == 0
    assert 'status="5' not in metrics
    assert rate >= 0.8 * alone
    assert late < 1.05 * early


def test_batching_pays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """16 requests at a time make at least 1.5 times the pictures a second of one at a time."""
    with server_process() as (_, url):
        throughput(url, 16, 3)
        one, many = throughput(url, 1, 8), throughput(url, 16, 8)
    with capsys.disabled():
        print(f"\n{one:.1f} pictures/s one by one, {many:.1f} at 16 concurrent requests: {many / one:.2f} times")
    assert many >= 1.5 * one


def test_a_request_costs_little_more_than_the_network(capsys: pytest.CaptureFixture[str]) -> None:
    """A single sample of 10 steps takes at most 3 times as long as by the library."""
    name = "cifar10-edm" if "cifar10-edm" in zoo.available() else "digits-ddpm"
    model, card = zoo.load(name), zoo.card(name)

    def median(call: object) -> float:
        seconds = []
        for _ in range(12):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[2:])

    bare = median(lambda: draw(model, card, 1, seed=1, steps=10))
    with server_process() as (_, url), httpx.Client(base_url=url, timeout=60) as client:
        body = {"model": name, "steps": 10, "seed": 1}
        served = median(lambda: client.post("/v1/images", json=body).raise_for_status())
    with capsys.disabled():
        print(
            f"\n{name}, 10 steps: {served * 1000:.1f} ms served, {bare * 1000:.1f} ms bare: {served / bare:.2f} times"
        )
    assert served <= 3 * bare


def test_it_starts_within_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    with server_process() as (_, url):
        assert httpx.get(f"{url}/readyz").status_code == 200
        seconds = time.monotonic() - start
    with capsys.disabled():
        print(f"\nready after {seconds:.1f} s")
    assert seconds <= 10
