"""Bad input of every kind gets 4xx and a problem+json that names the field, the limit and the value; nothing breaks."""

from __future__ import annotations

import gzip
import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from _serving import PROBLEM, all_kinds
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from helpers.serving import Settings, make_engine, running
from helpers.serving.pictures import BadPicture, decode
from helpers.serving.problems import MOST_ERRORS

DIGITS = {"model": "digits-ddpm", "steps": 2, "seed": 5}
TINY = {"model": "tiny-edm", "steps": 2, "seed": 5}
LIMITS = Settings(port=0, max_picture_pixels=10_000, max_picture_bytes=20_000, body_seconds=0.5)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = all_kinds(tmp_path_factory.mktemp("models"))
    with running(LIMITS, make_engine(models, LIMITS)) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture(autouse=True)
def _alive_afterwards(client: httpx.Client) -> Iterator[None]:
    yield
    assert client.get("/healthz").json() == {"status": "ok", "running": 0, "waiting": 0}


def refused(answer: httpx.Response, status: int) -> list[dict[str, Any]]:
    """The mistakes that an answer names."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    problem = answer.json()
    assert problem["status"] == status
    assert {"type", "title", "detail"} <= set(problem)
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
    return problem.get("errors", [])


@pytest.mark.parametrize("path", ["/v1/images", "/v1/images/stream"])
@pytest.mark.parametrize(
    ("body", "field", "limit", "value"),
    [
        (DIGITS | {"n": 0}, "n", 1, 0),
        (DIGITS | {"n": 37}, "n", 36, 37),
        (DIGITS | {"n": "3"}, "n", "an integer", "3"),
        (DIGITS | {"n": True}, "n", "an integer", True),
        (DIGITS | {"n": 2.5}, "n", "an integer", 2.5),
        (DIGITS | {"n": None}, "n", "an integer", None),
        (DIGITS | {"steps": 101}, "steps", 100, 101),
        (DIGITS | {"steps": -1}, "steps", 1, -1),
        (DIGITS | {"seed": -1}, "seed", 0, -1),
        (DIGITS | {"seed": 2**53}, "seed", 2**53 - 1, 2**53),
        (DIGITS | {"seed": 10**100}, "seed", 2**53 - 1, "an integer of 333 bits"),
        (DIGITS | {"scale": 9}, "scale", 8, 9),
        (DIGITS | {"sampler": "ipndm"}, "sampler", '"ddim"', "ipndm"),
        (DIGITS | {"sampler": ["ddim"]}, "sampler", '"ddim"', ["ddim"]),
        (TINY | {"guidance": 21}, "guidance", 20, 21),
        (TINY | {"guidance": -0.5}, "guidance", 0, -0.5),
        (TINY | {"guidance": "1"}, "guidance", "a number", "1"),
        (DIGITS | {"guidance": 2}, "guidance", None, 2),
        (DIGITS | {"class": 1}, "class", None, 1),
        (DIGITS | {"path": "/etc/passwd"}, "path", None, "/etc/passwd"),
        (DIGITS | {"model": "../digits-ddpm"}, "model", None, "../digits-ddpm"),
        (DIGITS | {"model": "digits-classifier"}, "model", None, "digits-classifier"),
        (DIGITS | {"model": 3}, "model", None, 3),
        ({"steps": 2}, "model", None, None),
        ([DIGITS], "body", "a JSON object", None),
        ("x" * 1000, "body", "a JSON object", "x" * 120 + "…"),
    ],
)
def test_a_field_out_of_its_limits_is_named(
    client: httpx.Client, path: str, body: Any, field: str, limit: Any, value: Any
) -> None:
    mistakes = refused(client.post(path, json=body), 422)
    [mistake] = [one for one in mistakes if one["field"] == field]
    assert mistake["message"].startswith("expected")
    if limit is not None:
        assert mistake["limit"] == limit
    if value is not None:
        assert mistake["value"] == value
    if field == "model":
        assert mistake["limit"] == ["digits-ddpm", "tiny-edm", "tiny-energy"]


@pytest.mark.parametrize(
    "label",
    ["wolf", 3, -1, 1.5, True, {}, {"wolf": 1}, {"cat": 0}, {"cat": -1}, {"cat": "1"}, {"cat": True}, ["cat"], "0"],
    ids=str,
)
def test_a_wrong_class_gets_the_right_ones_said(client: httpx.Client, label: Any) -> None:
    [mistake] = refused(client.post("/v1/images", json=TINY | {"class": label}), 422)
    assert mistake["field"] == "class"
    assert mistake["limit"] == (
        "a class out of cat, dog, emu, its number from 0 to 2, or weights of classes from 0.001 to 1000000"
    )
    assert mistake["message"].endswith(f", got {json.dumps(label)}")


@pytest.mark.parametrize("weight", [10**400, -(10**400)], ids=["large", "negative"])
def test_a_weight_that_no_float_holds_is_refused(client: httpx.Client, weight: int) -> None:
    body = json.dumps(TINY | {"class": {"cat": 1}}).replace('{"cat": 1}', f'{{"cat": {weight}}}')
    [mistake] = refused(client.post("/v1/images", content=body, headers=JSON), 422)
    assert mistake["field"] == "class"


def test_a_thousand_mistakes_are_not_all_explained(client: httpx.Client) -> None:
    body = DIGITS | {f"f{k}": 0 for k in range(1000)}
    assert len(refused(client.post("/v1/images", json=body), 422)) == MOST_ERRORS


def test_unknown_fields_get_the_known_ones_said(client: httpx.Client) -> None:
    [mistake] = refused(client.post("/v1/images", json=DIGITS | {"frames": 3}), 422)
    assert mistake["limit"] == ["model", "n", "seed", "steps", "sampler", "scale", "format"]
    [mistake] = refused(client.post("/v1/images/stream", json=DIGITS | {"format": "png"}), 422)
    assert mistake["limit"] == ["model", "n", "seed", "steps", "sampler", "scale", "frames"]


@pytest.mark.parametrize(("field", "value"), [("class", 3), ("guidance", 2.0)])
def test_a_model_without_classes_says_so(client: httpx.Client, field: str, value: Any) -> None:
    [mistake] = refused(client.post("/v1/images", json=DIGITS | {field: value}), 422)
    assert mistake["message"] == f"expected no {field}: digits-ddpm knows no classes"
    assert field not in mistake["limit"]


def test_all_mistakes_are_told_at_once(client: httpx.Client) -> None:
    mistakes = refused(client.post("/v1/images", json=DIGITS | {"n": 0, "steps": 0, "x": 1}), 422)
    assert [one["field"] for one in mistakes] == ["n", "steps", "x"]


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"model": }',
        b"\xff\xfe\x00",
        b'{"model": "digits-ddpm", "n": 1e999999}'.replace(b"1e999999", b"1" * 5000),
        b"[" * 5000,
        b'{"a":' * 3000,
        '{"model": "größer"}'.encode("latin-1"),
        bytes(100),
    ],
    ids=["open", "empty value", "no text", "long number", "deep array", "deep object", "latin-1", "zeros"],
)
def test_what_is_not_json_is_said_to_be_so(client: httpx.Client, body: bytes) -> None:
    [mistake] = refused(client.post("/v1/images", content=body, headers=JSON), 400)
    assert (mistake["field"], mistake["limit"]) == ("body", "JSON")
    assert mistake["message"].startswith("expected JSON")


def test_a_packed_body_is_refused(client: httpx.Client) -> None:
    """Or its size would be that before it is unpacked."""
    headers = JSON | {"Content-Encoding": "gzip"}
    answer = client.post("/v1/images", content=gzip.compress(json.dumps(DIGITS).encode()), headers=headers)
    [mistake] = refused(answer, 415)
    assert (mistake["field"], mistake["limit"], mistake["value"]) == ("Content-Encoding", ["identity"], "gzip")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(client: httpx.Client, number: str) -> None:
    body = json.dumps(TINY)[:-1] + f', "guidance": {number}}}'
    [mistake] = refused(client.post("/v1/images", content=body, headers=JSON), 422)
    assert mistake["field"] == "guidance"


def test_strings_that_no_file_can_hold_do_not_break_the_answer(client: httpx.Client) -> None:
    for change in ({"sampler": "\ud800"}, {"\udfff": "\x00"}, {"model": "\udfff"}):
        body = json.dumps(DIGITS | change)
        assert refused(client.post("/v1/images", content=body, headers=JSON), 422)


@pytest.mark.parametrize("content", [b"", b"null", b"3", b'"digits-ddpm"'])
def test_a_body_that_is_no_object_is_refused(client: httpx.Client, content: bytes) -> None:
    [mistake] = refused(client.post("/v1/images", content=content, headers=JSON), 422)
    assert mistake["field"] == "body"
    assert mistake["message"].startswith("expected a JSON object, got ")


@pytest.mark.parametrize("media_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_bodies_of_another_type_are_refused(client: httpx.Client, media_type: str | None) -> None:
    """Above all of those types that a page of another site may send without asking."""
    headers = {} if media_type is None else {"Content-Type": media_type}
    [mistake] = refused(client.post("/v1/images", content=json.dumps(DIGITS), headers=headers), 415)
    assert (mistake["field"], mistake["limit"]) == ("Content-Type", ["application/json"])
    assert mistake["message"] == f"expected application/json, got {media_type or 'nothing'}"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/images", 405), ("DELETE", "/v1/models", 405), ("GET", "/v1/none", 404), ("GET", "/static/x", 404)],
)
def test_other_addresses_and_methods(client: httpx.Client, method: str, path: str, status: int) -> None:
    [mistake] = refused(client.request(method, path), status)
    assert (mistake["field"], mistake["value"]) == (("address", path) if status == 404 else ("method", method))


@pytest.mark.parametrize("path", ["/static/../settings.py", "/static/%2e%2e/settings.py", "/static//etc/passwd"])
def test_no_file_but_the_pages_own_can_be_read(url: str, path: str) -> None:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"root:" not in answer


def test_a_foreign_host_is_refused(client: httpx.Client, url: str) -> None:
    [mistake] = refused(client.get("/v1/models", headers={"Host": "evil.example:8000"}), 421)
    assert (mistake["field"], mistake["value"]) == ("Host", "evil.example")
    assert client.get("/v1/models", headers={"Host": "localhost:1"}).status_code == 200
    assert client.get("/v1/models", headers={"Host": "[::1]:80"}).status_code == 200


def test_monitors_may_ask_without_a_name(client: httpx.Client, url: str) -> None:
    for path in ("/healthz", "/readyz", "/v1/readyz"):
        assert client.get(path, headers={"Host": "monitor.example"}).status_code == 200
        assert talk(url, f"GET {path} HTTP/1.0\r\n\r\n".encode()).startswith(b"HTTP/1.1 200")
    assert talk(url, b"GET /v1/models HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 421")


# ── sizes and times ───────────────────────────────────────────────────────


def talk(url: str, request: bytes, later: bytes = b"") -> bytes:
    """Send bytes as they are; what comes back until the connection ends."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(request)
        if later:
            try:
                for _ in range(200):
                    connection.sendall(later)
            except OSError:
                pass  # refused in the middle
        return b"".join(iter(lambda: _received(connection), b""))


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def head(url: str, path: str, *lines: str) -> bytes:
    start = [f"POST {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}", "Content-Type: application/json", *lines]
    return "\r\n".join([*start, "", ""]).encode()


def test_a_large_body_is_refused_before_it_comes(url: str) -> None:
    answer = talk(url, head(url, "/v1/images", "Content-Length: 1000000000000"))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"limit": 16384, "value": 1000000000000' in answer


def test_a_large_body_without_a_length_is_refused_as_it_comes(url: str) -> None:
    piece = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    answer = talk(url, head(url, "/v1/images", "Transfer-Encoding: chunked"), later=piece)
    assert answer.startswith(b"HTTP/1.1 413") or answer == b""  # the reset may overtake the answer
    with httpx.Client(base_url=url) as client:
        pieces = (b"x" * 4096 for _ in range(5))
        refused(client.post("/v1/images", content=pieces, headers=JSON), 413)


def test_a_body_that_does_not_come_is_not_waited_for(url: str) -> None:
    start = time.monotonic()
    answer = talk(url, head(url, "/v1/images", "Content-Length: 10") + b"{")
    assert answer.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - start < 5


# ── pictures ──────────────────────────────────────────────────────────────


def png(width: int = 8, height: int = 8, mode: str = "L") -> bytes:
    content = io.BytesIO()
    Image.new(mode, (width, height)).save(content, "PNG")
    return content.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int) -> bytes:
    """A small PNG file of a picture that is not."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def as_format(kind: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, kind)
    return content.getvalue()


sixteen_bits = io.BytesIO()
Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(sixteen_bits, "PNG")

BAD_PICTURES = {
    "empty": b"",
    "no picture": b"hello",
    "truncated": png(64, 64)[:60],
    "cut at the end": png(64, 64)[:-28],
    "bad checksum": png()[:40] + b"\x00" + png()[41:],
    "too many pixels": png(101, 100),
    "bomb": bomb(20_000, 20_000),
    "large bomb": bomb(2**31 - 1, 2**31 - 1),
    "no pixels": bomb(0, 0),
    "gif": as_format("GIF"),
    "jpeg as png": as_format("JPEG"),
    "16 bits": sixteen_bits.getvalue(),
    "text bomb": png()[:33] + chunk(b"zTXt", b"k\x00\x00" + zlib.compress(bytes(10**7))) + png()[33:],
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures_are_refused(client: httpx.Client, name: str) -> None:
    headers = {"Content-Type": "image/png"}
    answer = client.post("/v1/energy?model=tiny-energy", content=BAD_PICTURES[name], headers=headers)
    [mistake] = refused(answer, 422)
    assert mistake["field"] == "body"
    if name == "too many pixels":
        assert (mistake["limit"], mistake["value"]) == (10_000, 10_100)


def test_a_jpeg_file_of_many_scans_is_refused(client: httpx.Client) -> None:
    """A decoder goes over the whole picture for each, and one takes a few bytes."""
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    path, headers = "/v1/energy?model=tiny-energy", {"Content-Type": "image/jpeg"}
    assert client.post(path, content=content, headers=headers).status_code == 200
    [mistake] = refused(client.post(path, content=content[:-2] + 200 * last + content[-2:], headers=headers), 422)
    assert (mistake["field"], mistake["limit"]) == ("body", 100)
    assert "too many scans" in mistake["message"]


def test_large_files_and_other_types_are_refused(client: httpx.Client) -> None:
    path, headers = "/v1/energy?model=tiny-energy", {"Content-Type": "image/png"}
    [mistake] = refused(client.post(path, content=bytes(20_001), headers=headers), 413)
    assert (mistake["limit"], mistake["value"]) == (20_000, 20_001)
    for media_type in ("image/gif", "image/svg+xml", "multipart/form-data", "application/json"):
        refused(client.post(path, content=png(), headers={"Content-Type": media_type}), 415)


@pytest.mark.parametrize("query", ["", "?model=", "?model=" + "x" * 65])
def test_the_model_of_an_energy_is_checked(client: httpx.Client, query: str) -> None:
    answer = client.post(f"/v1/energy{query}", content=png(), headers={"Content-Type": "image/png"})
    [mistake] = refused(answer, 422)
    assert (mistake["field"], mistake["limit"]) == ("model", ["tiny-energy"])
    assert mistake["message"].startswith("expected one of tiny-energy, got ")


def test_where_there_is_no_energy_the_models_are_named() -> None:
    with running(Settings(port=0, models=("digits-ddpm", "digits-classifier"))) as url:
        headers = {"Content-Type": "image/png"}
        answer = httpx.post(f"{url}/v1/energy?model=tiny-energy", content=png(), headers=headers)
    [mistake] = refused(answer, 404)
    assert "models with energies: none; others: digits-classifier, digits-ddpm" in mistake["message"]


@given(st.binary(max_size=300), st.integers(0, 200), st.sampled_from(["image/png", "image/jpeg"]))
@hypothesis_settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_any_bytes_make_a_picture_or_a_refusal(noise: bytes, where: int, media_type: str) -> None:
    whole = png(20, 20) if media_type == "image/png" else as_format("JPEG")
    try:
        x = decode(whole[:where] + noise + whole[where + len(noise) :], media_type, (1, 8, 8), 10_000)
    except BadPicture:
        return
    assert x.shape == (1, 1, 8, 8)
    assert x.abs().max() <= 1
