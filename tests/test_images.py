"""Images from everywhere: what is opened, how it looks, and that whatever else comes is a ValidationError."""

from __future__ import annotations

import base64
import builtins
import io
import os
import random
import socket
import struct
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from assay import images
from assay.errors import AssayError, MissingExtra, ValidationError
from assay.images import MAX_PIXELS, MediaAccess, open_image

ANYWHERE = MediaAccess()
NOWHERE = MediaAccess(domains=())
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'


def picture(mode="RGB", size=(6, 4)):
    pixels = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def data_url(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def same(image, other):
    return image.mode == "RGB" and image.size == other.size and image.tobytes() == other.convert("RGB").tobytes()


def refused(source, match, access=ANYWHERE):
    with pytest.raises(ValidationError, match=match) as caught:
        open_image(source, access)
    assert caught.value.parameter == "image_url"
    assert len(str(caught.value)) < 600
    str(caught.value).encode()


PNG = encoded(picture())


# Bytes and their formats


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "ICO", "PPM", "JPEG", "WEBP", "JPEG2000", "AVIF", "DIB"])
def test_formats(kind):
    if kind not in Image.SAVE:
        Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"PIL was built without {kind}")
    size = (32, 32)
    data = encoded(picture(size=size), kind)
    image = open_image(data_url(data, "image/x"), ANYWHERE)
    with Image.open(io.BytesIO(data)) as plain:
        assert same(image, plain)
    assert image.resize((3, 3)).getpixel((0, 0))  # closing the file has left the pixels


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGBA", "LA", "YCbCr", "LAB", "RGBX", "HSV"])
def test_modes_become_rgb(mode):
    image = picture(mode)
    assert same(open_image(image, ANYWHERE), image)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "RGBa", "PA"])
def test_what_is_transparent_is_white(mode):
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    clear.putpixel((1, 1), (0, 0, 0, 255))
    image = {"La": lambda: clear.convert("LA").convert("La"), "PA": lambda: clear.convert("P").convert("PA")}.get(
        mode, lambda: clear.convert(mode)
    )()
    if mode == "PA":  # PIL fills its alpha with 255 on the way
        image.putalpha(clear.getchannel("A"))
    opened = open_image(image, ANYWHERE)
    assert opened.getpixel((0, 0)) == (255, 255, 255) and opened.getpixel((1, 1)) == (0, 0, 0)


def test_half_transparent_pixels_are_pasted_on_white():
    pixels = np.zeros((256, 256, 4), np.uint8)
    pixels[..., 0], pixels[..., 3] = np.arange(256)[:, None], np.arange(256)
    image = Image.fromarray(pixels)
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))  # as vLLM and qwen_vl_utils have it
    assert same(open_image(image, ANYWHERE), white)
    assert same(open_image(data_url(encoded(image)), ANYWHERE), white)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_colours_of_palettes_are_white(kind):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.putpixel((1, 0), 1)
    opened = open_image(data_url(encoded(image, kind, transparency=0)), ANYWHERE)
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 200, 0)]


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (1, 2, 3)), ("L", 7)])
def test_a_colour_that_stands_for_transparency_is_white(mode, colour):
    image = Image.new(mode, (2, 1), colour)
    image.putpixel((1, 0), 0 if mode == "L" else (0, 0, 0))
    opened = open_image(data_url(encoded(image, transparency=colour)), ANYWHERE)
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 0)]


@pytest.mark.parametrize("colour", ["x", b"\1\2", (1, 2), 10**20, None])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_a_broken_transparent_colour_is_none(mode, colour):
    image = picture(mode)
    image.info["transparency"] = colour
    if mode == "P" and isinstance(colour, bytes):
        return
    assert same(open_image(image, ANYWHERE), picture(mode))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_levels_of_16_bits_keep_their_upper_half(kind):
    levels = np.array([[0, 255, 256, 40_000, 65_535]], dtype=np.uint16)
    opened = open_image(data_url(encoded(Image.fromarray(levels), kind)), ANYWHERE)
    assert np.asarray(opened)[0].tolist() == [[value >> 8] * 3 for value in levels[0].tolist()]


@pytest.mark.parametrize(
    ("levels", "grey"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 2.0, 254.6]], np.float32), [0, 2, 255]),
        (np.array([[0.0, 257.0, 65535.0]], np.float32), [0, 1, 255]),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, np.inf, 1.0]], np.float32), [0, 0, 255]),
        (np.array([[-3e38, 0.0, 3e38]], np.float32), [0, 128, 255]),
        (np.array([[7e9, 7e9, 7e9]], np.float32), [0, 0, 0]),
        (np.array([[0, 7, 255]], np.int32), [0, 7, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-(2**31), 0, 2**31 - 1]], np.int32), [0, 128, 255]),
    ],
)
def test_wide_grey_levels(levels, grey):
    pixels = np.asarray(open_image(Image.fromarray(levels), ANYWHERE)).astype(int)
    assert np.abs(pixels[0] - np.array(grey)[:, None]).max() <= 1 and np.ptp(pixels, axis=2).max() == 0


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N", "I", "F"])
def test_wide_modes_of_pil(mode):
    assert open_image(Image.new(mode, (3, 2)), ANYWHERE).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert same(open_image(data_url(data), ANYWHERE), frames[0])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_turned_as_their_exif_says(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = picture(size=(16, 8))
    data = encoded(plain, kind, exif=exif)
    opened = open_image(data_url(data), ANYWHERE)
    assert opened.size == ((16, 8) if orientation < 5 else (8, 16))
    if kind in ("PNG", "TIFF") and orientation == 6:  # those that keep every value; a quarter turn to the right
        assert opened.getpixel((7, 0)) == plain.getpixel((0, 0))


def test_a_broken_exif_is_no_reason_to_refuse():
    data = encoded(picture(size=(16, 8)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(9))
    assert open_image(data_url(data), ANYWHERE).size == (16, 8)


def test_pil_images_are_not_turned():
    image = picture()
    image.getexif()[0x0112] = 6
    assert same(open_image(image, ANYWHERE), picture())


# Broken bytes


@pytest.mark.parametrize(
    "data",
    [
        SVG,
        b"\0",
        b"GIF89a",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"PK\3\4" + bytes(99),
        b"\x89PNG\r\n",
    ],
    ids=["svg", "nul", "gif", "eps", "zip", "png"],
)
def test_bytes_that_are_no_image(data):
    refused(data_url(data), "image must be (of a known format|whole)")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "ICO", "JPEG2000"])
def test_images_that_end_early(kind):
    data = encoded(picture(size=(64, 64)), kind)
    refused(data_url(data[: len(data) // 2]), "image must be (of a known format|whole)")


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(width, height, body=b""):
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (100_000, 100_000), (MAX_PIXELS + 1, 1)])
def test_images_of_too_many_pixels(size, monkeypatch):
    refused(data_url(png_of(*size)), f"at most {MAX_PIXELS} pixels")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    refused(data_url(png_of(*size)), f"at most {MAX_PIXELS} pixels, got {size[0]}x{size[1]}")


def test_a_large_image_brings_no_warning(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert open_image(data_url(PNG), ANYWHERE).size == (6, 4)
    refused(data_url(encoded(picture(size=(50, 50)))), "pixels")


def test_mutated_images_are_opened_or_refused():
    rng = random.Random(11)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "ICO", "PPM", "JPEG2000"):
        whole = encoded(picture(size=(24, 16)), kind)
        for _ in range(60):
            data = bytearray(whole)
            for _ in range(rng.randint(1, 6)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            try:
                assert open_image(data_url(bytes(data)), ANYWHERE).mode == "RGB"
            except ValidationError as err:
                assert err.parameter == "image_url"


def test_lack_of_memory_passes_through(monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(MemoryError):
        open_image(data_url(PNG), ANYWHERE)


# PIL's warnings


def test_filters_are_as_before():
    before = list(warnings.filters)
    for source in (data_url(PNG), data_url(b"x"), picture("P")):
        try:
            open_image(source, ANYWHERE)
        except ValidationError:
            pass
        assert list(warnings.filters) == before
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: open_image(data_url(PNG), ANYWHERE), range(100)))
    assert list(warnings.filters) == before


def test_warnings_of_pil_do_not_leak(monkeypatch):
    plain, load = picture("L"), Image.Image.load

    def loud(self):
        exec("import warnings; warnings.warn('odd', UserWarning)", {"__name__": "PIL.TiffImagePlugin"})
        return load(self)

    monkeypatch.setattr(Image.Image, "load", loud)
    assert open_image(plain, ANYWHERE).mode == "RGB"
    with pytest.raises(UserWarning, match="odd"):
        plain.load()


# data: URLs


@pytest.mark.parametrize(
    "url",
    [
        data_url(PNG),
        data_url(PNG, "application/octet-stream"),
        data_url(PNG, ""),
        data_url(PNG).replace("data:", "DATA:").replace(";base64", ";charset=utf-8;BASE64"),
        data_url(PNG).replace("+", "%2B").replace("/", "%2F").replace("=", "%3D").replace("image%2Fpng", "image/png"),
        "data:image/png;base64,\n" + base64.encodebytes(PNG).decode(),
    ],
    ids=["plain", "octets", "no type", "parameters", "quoted", "lines"],
)
def test_data_urls(url):
    assert same(open_image(url, NOWHERE), picture())


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("data:", "must be data:image"),
        ("data:,", "must be data:image"),
        ("data:image/png,abc", "must be data:image"),
        ("data:image/png;base64", "must be data:image"),
        ("data:image/png;base64,", "must not be empty"),
        ("data:image/png;base64,====", "data: URL in base64"),
        ("data:image/png;base64,A", "data: URL in base64"),
        ("data:image/png;base64,AAA", "data: URL in base64"),
        ("data:image/png;base64,AA==AA==", "data: URL in base64"),
        ("data:image/png;base64,\x00\x00\x00\x00", "data: URL in base64"),
        ("data:image/png;base64,%zz%", "data: URL in base64"),
        ("data:image/png;base64,%FF%FE", "data: URL in base64"),
        ("data:image/png;base64,é\ud800ßß", "data: URL in base64"),
        ("data:image/png;base64,!@#$", "data: URL in base64"),
        ("data:image/png;base64,AAAA", "known format"),
        ("data:image/png;base64," + "A" * 4_000_000, "known format"),
        ("data:" + "A" * 100_000, "must be data:image"),
        ("data:image/svg+xml;utf8,<svg/>", "must be data:image"),
    ],
    ids=lambda value: value[:30].encode("ascii", "backslashreplace").decode(),
)
def test_broken_data_urls(url, match):
    refused(url, match)


def test_data_urls_of_too_many_bytes():
    assert open_image(data_url(PNG), MediaAccess(max_bytes=len(PNG))).size == (6, 4)
    refused(data_url(PNG), f"at most {len(PNG) - 1} bytes", MediaAccess(max_bytes=len(PNG) - 1))


# Local files


@pytest.fixture
def folder(tmp_path):
    allowed = tmp_path / "allowed"
    (allowed / "in ner").mkdir(parents=True)
    (allowed / "in ner" / "ü.png").write_bytes(PNG)
    (allowed / "large.png").write_bytes(PNG + bytes(1000))
    (allowed / "empty.png").write_bytes(b"")
    (allowed / "text.txt").write_text("hello", encoding="utf-8")
    (tmp_path / "secret.png").write_bytes(PNG)
    (tmp_path / "allowed-too").mkdir()
    (tmp_path / "allowed-too" / "a.png").write_bytes(PNG)
    (allowed / "good").symlink_to(allowed / "in ner")
    (allowed / "bad.png").symlink_to(tmp_path / "secret.png")
    (allowed / "loop").symlink_to(allowed / "loop")
    os.mkfifo(allowed / "pipe")
    return allowed


def test_local_files(folder):
    access = MediaAccess(local_path=str(folder), domains=(), max_bytes=len(PNG))
    for url in (
        f"file://{folder}/in%20ner/%C3%BC.png",
        f"file://{folder}/in ner/ü.png",
        f"FILE://localhost{folder}/good/%C3%BC.png",
        f"file:{folder}/in%20ner/../good/%C3%BC.png",
    ):
        assert same(open_image(url, access), picture())


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("../secret.png", "under allowed_local_media_path"),
        ("%2e%2e/secret.png", "under allowed_local_media_path"),
        ("..%2Fsecret.png", "under allowed_local_media_path"),
        ("../nothing.png", "under allowed_local_media_path"),
        ("../allowed-too/a.png", "under allowed_local_media_path"),
        ("bad.png", "under allowed_local_media_path"),
        ("../../../../../../etc/passwd", "under allowed_local_media_path"),
        ("nothing.png", "readable file"),
        ("text.txt/a.png", "readable file"),
        ("loop", "readable file"),
        ("a%00b.png", "readable file"),
        ("a\0b.png", "readable file"),
        ("%ff%fe.png", "readable file"),
        ("\ud800.png", "readable file"),
        ("x" * 5000, "readable file"),
        ("in%20ner", "regular file"),
        ("pipe", "regular file"),
        ("", "regular file"),
        ("large.png", "at most 500 bytes"),
        ("empty.png", "must not be empty"),
        ("text.txt", "known format"),
    ],
)
def test_local_files_that_are_refused(folder, name, match):
    refused(f"file://{folder}/{name}", match, MediaAccess(local_path=str(folder), max_bytes=500))


@pytest.mark.parametrize(
    "url", ["file:", "file://", "file:a.png", "file://host/a.png", "file://[::1/a", "file://[x]/a"]
)
def test_broken_file_urls(folder, url):
    refused(url, "file: URL", MediaAccess(local_path=str(folder)))


def test_no_local_file_is_opened_without_a_folder(folder):
    refused(f"file://{folder}/text.txt", "allowed_local_media_path is not set")


# The network


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.seen: list = []
        self.away = ""
        self.released = threading.Event()

    def handle_error(self, request, client_address):
        """A client that hangs up is what the tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self):
        self.close_connection = True
        self.server.seen.append((self.path, self.headers))
        getattr(self, "at_" + self.path.strip("/").partition("?")[0])()

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content_Length": len(body), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def at_good(self):
        self.answer(200, PNG)

    def at_unsized(self):
        self.answer(200, PNG, Content_Length=None)

    def at_empty(self):
        self.answer(200)

    def at_missing(self):
        self.answer(404, PNG)

    def at_partial(self):
        self.answer(206, PNG)

    def at_nowhere(self):
        self.answer(302)

    def at_zipped(self):
        self.answer(200, zlib.compress(PNG), Content_Encoding="deflate")

    def at_hop(self):
        count = int(self.path.partition("?")[2])
        self.answer(302, Location="/good" if count == 0 else f"/hop?{count - 1}")

    def at_away(self):
        self.answer(302, Location=self.server.away)

    def at_announced(self):
        self.answer(200, b"", Content_Length=10**9)

    def at_endless(self):
        self.answer(200, b"", Content_Length=None)
        for _ in range(10_000):
            self.wfile.write(bytes(10_000))

    def at_cut(self):
        self.answer(200, PNG[:50], Content_Length=len(PNG))

    def at_silent(self):
        self.server.released.wait(5)

    def at_slow_head(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self.drip(b"X-A: 1\r\n")

    def at_slow_body(self):
        self.answer(200, b"", Content_Length=None)
        self.drip(PNG)

    def drip(self, text):
        for position in range(10_000):
            if self.server.released.wait(0.05):
                break
            self.wfile.write(text[position % len(text) :][:1])
            self.wfile.flush()

    def at_garbage(self):
        self.wfile.write(b"\0\1\2\3 this is no HTTP\r\n\r\n")

    def at_closed(self):
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


LOCAL = MediaAccess(domains=("127.0.0.1",), max_bytes=100_000)
HASTY = MediaAccess(timeout_s=0.3)


@pytest.mark.parametrize("path", ["good", "unsized", "hop?0", "hop?4"])
def test_images_from_the_network(server, path):
    assert same(open_image(f"{server.url}/{path}", LOCAL), picture())


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("empty", "must not be empty"),
        ("missing", "status 200, got 404"),
        ("partial", "status 200, got 206"),
        ("nowhere", "status 200, got 302"),
        ("zipped", "without a Content-Encoding, got 'deflate'"),
        ("hop?5", "at most 5 redirects away"),
        ("announced", "at most 100000 bytes"),
        ("endless", "at most 100000 bytes"),
        ("cut", "URL that can be fetched"),
        ("closed", "URL that can be fetched"),
        ("garbage", "URL that can be fetched"),
    ],
)
def test_answers_that_are_no_image(server, path, match):
    refused(f"{server.url}/{path}", match, LOCAL)


@pytest.mark.parametrize("path", ["silent", "slow_head", "slow_body"])
def test_a_slow_server_is_left_in_time(server, path):
    started = time.monotonic()
    refused(f"{server.url}/{path}", r"arrive within 0\.3 s", HASTY)
    assert time.monotonic() - started < 4  # of the 5 that a silent server would take
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(5)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("away", "match"),
    [
        ("http://localhost:{port}/good", "allowed domain .127.0.0.1., got 'localhost'"),
        ("http://127.0.0.1@localhost:{port}/good", "allowed domain .127.0.0.1., got 'localhost'"),
        ("//localhost:{port}/good", "allowed domain .127.0.0.1., got 'localhost'"),
        ("http://169.254.169.254/latest/meta-data", "allowed domain"),
        ("file:///etc/passwd", "http: or https: URL"),
        ("data:image/png;base64,AAAA", "URL that can be fetched"),
        ("ftp://127.0.0.1/a.png", "http: or https: URL"),
        ("http://[::1", "URL that can be fetched"),
        ("http://127.0.0.1:99999999/", "URL that can be fetched"),
    ],
)
def test_redirects_are_checked_at_every_hop(server, away, match):
    server.away = away.format(port=server.server_port)
    refused(f"{server.url}/away", match, LOCAL)
    assert [path for path, _ in server.seen] == ["/away"]


def test_a_host_that_is_not_allowed_is_not_asked(server):
    refused(
        f"{server.url}/good", r"allowed domain \(example.org\), got '127.0.0.1'", MediaAccess(domains=("example.org",))
    )
    refused(f"{server.url}/good", r"allowed domain \(none\)", NOWHERE)
    assert server.seen == []


def test_domains_are_compared_without_case_and_in_both_spellings(server, monkeypatch):
    resolve = socket.getaddrinfo
    asked = []

    def to_server(host, port, *args, **kwargs):
        asked.append(host if isinstance(host, str) else host.decode())
        return resolve("127.0.0.1", port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", to_server)
    for host, domain in [
        ("Example.ORG", "exaMPLE.org"),
        ("bücher.example", "bücher.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "bücher.example"),
    ]:
        url = f"http://{host}:{server.server_port}/good"
        assert same(open_image(url, MediaAccess(domains=(domain,))), picture())
    assert asked == ["example.org"] + ["xn--bcher-kva.example"] * 3


def test_hosts_that_do_not_resolve(server, monkeypatch):
    def fail(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    refused("http://nobody.invalid/a.png", "URL that can be fetched.*Name or service", ANYWHERE)


def test_a_port_where_nobody_listens(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        refused(f"http://127.0.0.1:{free.getsockname()[1]}/a", "URL that can be fetched", HASTY)


def test_a_server_without_tls(server):
    refused(server.url.replace("http:", "https:") + "/good", "URL that can be fetched", MediaAccess(timeout_s=2))


@pytest.mark.parametrize(
    "url",
    [
        "http:",
        "http://",
        "http:///a.png",
        "http://[",
        "http://[::1",
        "http://[zz]/",
        "http://]/",
        "http://a\0b/",
        "http://a b/",
        "http://a/\0",
        "http://a/\ud800",
        "http://\ud800/",
        "http://a:b/",
        "http://a:-1/",
        "http://a:65536/",
        "http://a:99999999999999999999/",
        "http://" + "a" * 300 + "/",
        "http://" + "a." * 3000 + "/",
        "http://..",
        "http://.a/",
        "http://a..b/",
        "http://%00/",
        "http://%zz/",
        "http://xn--/",
        "http://xn--a-é/",
        "http://256.256.256.256/",
        "http://0x7f.1/",
        "http://user:pa ss@/",
        "http://℀/",
        "http://a/" + "x" * 70_000,
        "https:a.png",
        "http:/a.png",
    ],
    ids=lambda value: value[:30].encode("ascii", "backslashreplace").decode().replace("\0", "NUL"),
)
def test_broken_http_urls(url, monkeypatch):
    def fail(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    refused(url, "image must be", ANYWHERE)
    refused(url, "image must be", NOWHERE)


@pytest.mark.parametrize(
    "url", ["", " ", ":", "a.png", "/etc/passwd", "ftp://a/b.png", "javascript:1", "s3://a/b", "\0", "\ud800", "http"]
)
def test_other_urls(url):
    refused(url, "image must be a data:, http:, https: or file: URL, got", ANYWHERE)


def test_messages_stay_short():
    with pytest.raises(ValidationError) as caught:
        open_image("x" * 1_000_000, ANYWHERE)
    assert len(str(caught.value)) < 200


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(),
        st.builds("{}:{}".format, st.sampled_from(["http", "https", "file", "data", "HTTP"]), st.text()),
        st.builds(
            "{}//{}".format, st.sampled_from(["http:", "https:", "file:"]), st.text("[]:@/%.a0é\0 ?#\\", max_size=20)
        ),
        st.builds("data:{};base64,{}".format, st.text(max_size=9), st.text("A/+=%\n-_b ", max_size=20)),
    )
)
def test_any_text_is_an_image_or_refused(url):
    try:
        open_image(url, MediaAccess(local_path="/nonexistent", domains=()))
    except ValidationError as err:
        str(err).encode()


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"II*\0", b"BM", b"P6 ", b"\0\0\1\0\1\0"]),
)
def test_any_bytes_are_an_image_or_refused(data, magic):
    try:
        open_image(data_url(magic + data), ANYWHERE)
    except ValidationError:
        pass


# Images and arrays


def test_arrays_and_tensors():
    pixels = np.array(picture())
    for source in (pixels, torch.from_numpy(pixels), pixels[::-1][::-1], np.asfortranarray(pixels)):
        assert same(open_image(source, ANYWHERE), picture())
    grey = np.array(picture("L"))[:, :, None]
    assert same(open_image(grey, ANYWHERE), picture("L"))
    clear = np.zeros((2, 2, 4), np.uint8)
    assert open_image(torch.from_numpy(clear), ANYWHERE).getpixel((0, 0)) == (255, 255, 255)
    assert not clear.any()


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (np.zeros((4, 4, 3), np.float32), r"array of uint8 .*, got float32 \[4, 4, 3\]"),
        (np.zeros((4, 4), np.uint8), r"got uint8 \[4, 4\]"),
        (np.zeros((3, 4, 5), np.uint8), r"got uint8 \[3, 4, 5\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"got uint8 \[1, 4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), "must have pixels, got 4x0"),
        (np.broadcast_to(np.zeros(3, np.uint8), (20_000, 20_000, 3)), "at most"),
        (np.array(5), "array of uint8"),
        (np.array([object()]), "array of uint8"),
        (torch.zeros(4, 4, 3), r"tensor of torch.uint8, got torch.float32 \[4, 4, 3\]"),
        (torch.zeros(4, 4, 3, dtype=torch.bfloat16), "torch.bfloat16"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8, device="meta"), "tensor with numbers in it"),
        (torch.zeros(3, 4, 5, dtype=torch.uint8), r"got uint8 \[3, 4, 5\]"),
        (None, "got a NoneType"),
        (5, "got a int"),
        (PNG, "got a bytes"),
        ({"url": "x"}, "got a dict"),
        (Image.new("RGB", (0, 5)), "must have pixels, got 0x5"),
    ],
)
def test_objects_that_are_no_image(source, match):
    refused(source, match)


def test_a_pil_image_that_cannot_be_read(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG[:-30])
    with Image.open(path) as image:
        refused(image, "PIL image that can be read, got a PngImageFile")
    refused(image, "PIL image that can be read")


def test_a_pil_image_of_the_caller_is_left_as_it_is():
    image = picture("RGBA")
    image.info["transparency"] = "x"
    open_image(image, ANYWHERE)
    assert image.mode == "RGBA" and image.info == {"transparency": "x"}


@pytest.mark.parametrize(("name", "source"), [("PIL", data_url(PNG)), ("httpx", "http://a/b.png")])
def test_missing_packages_are_named(monkeypatch, name, source):
    plain = builtins.__import__

    def without(module, *args, **kwargs):
        if module.partition(".")[0] == name:
            raise ImportError(f"No module named {name!r}")
        return plain(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match={"PIL": "pillow", "httpx": "httpx"}[name]) as caught:
        open_image(source, ANYWHERE)
    assert isinstance(caught.value, AssayError)


def test_threads_decode_at_once():
    urls = [data_url(encoded(picture(size=(20 + i, 30)))) for i in range(20)]
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda url: open_image(url, ANYWHERE), urls * 3))
    assert [image.size[0] for image in opened] == [20 + i for i in range(20)] * 3
    assert images._num_decoding == 0
