"""Where an image comes from, and the pixels as PIL has them."""

from __future__ import annotations

import binascii
import contextlib
import functools
import io
import os
import re
import socket
import stat
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from assay.errors import MissingExtra, ValidationError

if TYPE_CHECKING:
    import ssl

    import httpx
    from numpy.typing import NDArray
    from PIL import Image

MAX_PIXELS: Final = 178_956_970
"""What PIL itself refuses to go beyond, and what holds here where a program has lifted PIL's limit."""

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "AVIF", "JPEG2000", "ICO", "PPM", "DIB")
"""What is looked for in bytes: raster images in use on the web. PIL knows more, among them EPS, for which it would run
Ghostscript on what a stranger sent."""

_MAX_REDIRECTS: Final = 5
_SHOWN_CHARS: Final = 60
_SHOWN_ERROR_CHARS: Final = 160
_ARRAY_MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}
_WHITE: Final = (255, 255, 255, 255)
_FORMS: Final = "a data:, http:, https: or file: URL"


@dataclass(frozen=True, slots=True)
class MediaAccess:
    """What may be opened for a request.

    local_path: the folder that file: URLs may name files in; "" = no local files. domains: the hosts that URLs may
    name, redirects too; None = every host. timeout_s: for the whole of a download. max_bytes: of an image as it is
    sent, before it is decoded.
    """

    local_path: str = ""
    domains: tuple[str, ...] | None = None
    timeout_s: float = 5.0
    max_bytes: int = 64 * 1024 * 1024


def open_image(source: Any, access: MediaAccess) -> Image.Image:
    """An image in mode RGB, its pixels loaded.

    source: a URL (data: with base64, http:, https:, file:), a PIL image, or a numpy array or torch tensor of uint8
    [height, width, channels] with 1, 3 or 4 channels. What is transparent is laid on white; of more frames the first
    counts; an image that comes as bytes is turned the way its EXIF orientation says.

    Raises ValidationError for whatever is no such image or may not be opened, MissingExtra where a package is missing.
    """
    pil_image = _pil_image_module()
    if isinstance(source, str):
        return _decoded(_read(source, access), source)
    if not isinstance(source, pil_image.Image):
        return _from_array(source)
    _check_size(source.size)
    with _refusing("a PIL image that can be read", source), _without_pil_warnings():
        return _to_rgb(source)


def require_packages() -> None:
    """Raise MissingExtra, which says what to install, where images could not be read."""
    _pil_image_module()
    _httpx_module()


def _pil_image_module() -> Any:
    try:
        from PIL import Image
    except ImportError as err:
        raise MissingExtra("images need the package pillow: pip install 'assay[images]'") from err
    return Image


def _httpx_module() -> Any:
    try:
        import httpx
    except ImportError as err:
        raise MissingExtra(
            "images from http: and https: URLs need the package httpx: pip install 'assay[images]'"
        ) from err
    return httpx


def _error(message: str) -> ValidationError:
    return ValidationError(message, parameter="image_url")


def _shown(source: Any) -> str:
    """A source for a message: a data URL may be megabytes, and a repr of pixels too."""
    if not isinstance(source, str):
        return f"a {type(source).__name__}"
    return repr(source if len(source) <= _SHOWN_CHARS else source[:_SHOWN_CHARS] + "...")


@contextlib.contextmanager
def _refusing(wanted: str, source: Any) -> Iterator[None]:
    """Whatever fails inside is the source's fault, except for lack of memory.

    Nothing narrower than Exception will do: PIL's plugins and the network stack let out SyntaxError, struct.error,
    UnicodeError, OverflowError and more from the depth of their parsers, and another selection with every release.
    """
    try:
        yield
    except (MemoryError, MissingExtra, ValidationError):
        raise
    except Exception as err:
        reason = f"{type(err).__name__}: {err}"[:_SHOWN_ERROR_CHARS]
        reason = reason.encode("utf-8", "backslashreplace").decode("utf-8")  # halves of surrogates fit into no reply
        raise _error(f"image must be {wanted}, got {_shown(source)} ({reason})") from err


# From a URL to bytes


def _read(url: str, access: MediaAccess) -> bytes:
    scheme = url[:6].partition(":")[0].lower() if ":" in url[:6] else ""
    if scheme == "data":
        data = _from_data_url(url, access)
    elif scheme in ("http", "https"):
        data = _from_http(url, access)
    elif scheme == "file":
        data = _from_file_url(url, access)
    else:
        raise _error(f"image must be {_FORMS}, got {_shown(url)}")
    if not data:
        raise _error(f"image must not be empty, got no bytes from {_shown(url)}")
    return data


def _check_num_bytes(num_bytes: int, url: str, access: MediaAccess) -> None:
    if num_bytes > access.max_bytes:
        raise _error(f"image must have at most {access.max_bytes} bytes, got more from {_shown(url)}")


def _from_data_url(url: str, access: MediaAccess) -> bytes:
    header, comma, payload = url.partition(",")
    if not comma or header.rpartition(";")[2].strip().lower() != "base64":
        raise _error(f"a data: URL must be data:image/...;base64,..., got {_shown(url)}")
    with _refusing("a data: URL in base64", url):
        if "%" in payload:  # some clients quote "+", "/" and "="
            payload = unquote(payload)
        payload = "".join(payload.split())  # and some break lines, as MIME does
        _check_num_bytes(len(payload) // 4 * 3 - payload[-2:].count("="), url, access)
        return binascii.a2b_base64(payload, strict_mode=True)


def _from_file_url(url: str, access: MediaAccess) -> bytes:
    if not access.local_path:
        raise _error(f"image must not be a local file where allowed_local_media_path is not set, got {_shown(url)}")
    with _refusing("a file: URL of a readable file", url):
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise _error(f"a file: URL must be file:///..., got {_shown(url)}")
        path = Path(os.fsdecode(unquote_to_bytes(parts.path))).resolve()
        # Before anything else is said of the file: whether others exist is not the requester's business.
        if not path.is_relative_to(Path(access.local_path).resolve()):
            raise _error(f"image must be a file under allowed_local_media_path, got {_shown(url)}")
        # The path has no links left; one that is put there now is not followed, and a pipe does not hold us up.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise _error(f"image must be a regular file, got {_shown(url)}")
            _check_num_bytes(status.st_size, url, access)
            with open(handle, "rb", closefd=False) as file:
                data = file.read(access.max_bytes + 1)
        finally:
            os.close(handle)
        _check_num_bytes(len(data), url, access)
        return data


class _Cutoff:
    """Ends a download at its deadline.

    httpx's timeouts are for one read each, and a server that sends a byte before each of them could go on for days:
    at the deadline the socket is shut down, which the read notices.
    """

    def __init__(self, timeout_s: float) -> None:
        self.has_passed = False
        self._stream: Any = None
        self._timer = threading.Timer(timeout_s, self._pass)
        self._timer.daemon = True

    def __enter__(self) -> _Cutoff:
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """What httpx calls at every step of a request: it hands out the connections here."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._stream = info["return_value"]
            if self.has_passed:
                self._shut_down()

    def _pass(self) -> None:
        self.has_passed = True
        self._shut_down()

    def _shut_down(self) -> None:
        if self._stream is None:
            return
        with contextlib.suppress(OSError, AttributeError):  # closed by now
            # Not the method of an SSLSocket, which takes the TLS state away from the thread that is reading.
            socket.socket.shutdown(self._stream.get_extra_info("socket"), socket.SHUT_RDWR)


@functools.lru_cache(maxsize=1)
def _ssl_context() -> ssl.SSLContext:
    """Made once: reading the certificates takes longer than most downloads."""
    context: ssl.SSLContext = _httpx_module().create_ssl_context()
    return context


def _from_http(url: str, access: MediaAccess) -> bytes:
    httpx = _httpx_module()
    cutoff = _Cutoff(access.timeout_s)
    try:
        with _refusing("a URL that can be fetched", url):
            _check_host(httpx.URL(url), url, access)
            # A body that is compressed once more could be any size when unpacked.
            headers = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "assay"}
            with (
                cutoff,
                httpx.Client(headers=headers, timeout=access.timeout_s, verify=_ssl_context()) as client,
            ):
                data = _followed(client, client.build_request("GET", url, extensions={"trace": cutoff.trace}), access)
    except ValidationError as err:
        if cutoff.has_passed or isinstance(err.__cause__, httpx.TimeoutException):
            raise _late(url, access) from err
        raise
    if cutoff.has_passed:  # a body without a length ends where the connection does
        raise _late(url, access)
    return data


def _late(url: str, access: MediaAccess) -> ValidationError:
    return _error(f"image must arrive within {access.timeout_s:g} s, got {_shown(url)}")


def _followed(client: httpx.Client, request: httpx.Request, access: MediaAccess) -> bytes:
    """The body at the end of the redirects, every one of which has to lead to a host that is allowed."""
    url = str(request.url)
    for _ in range(_MAX_REDIRECTS + 1):
        response = client.send(request, stream=True)
        with contextlib.closing(response):
            if response.next_request is None:
                return _body(response, url, access)
            request = response.next_request
        _check_host(request.url, url, access)
    raise _error(f"image must be at most {_MAX_REDIRECTS} redirects away, got {_shown(url)}")


def _check_host(target: httpx.URL, url: str, access: MediaAccess) -> None:
    """httpx's own reading of a URL decides, so that what is checked is what is connected to."""
    if target.scheme not in ("http", "https") or not target.host:
        raise _error(f"image must be at an http: or https: URL with a host, got {_shown(str(target))}")
    if access.domains is None:
        return
    allowed = {domain.lower() for domain in access.domains}
    if not {target.host.lower(), target.raw_host.decode("ascii").lower()} & allowed:
        names = ", ".join(access.domains) or "none"
        raise _error(f"image must be at an allowed domain ({names}), got {_shown(target.host)} from {_shown(url)}")


def _body(response: httpx.Response, url: str, access: MediaAccess) -> bytes:
    if response.status_code != 200:
        raise _error(f"image must be at a URL that answers with status 200, got {response.status_code}: {_shown(url)}")
    encoding = response.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise _error(f"image must come without a Content-Encoding, got {_shown(encoding)} from {_shown(url)}")
    length = response.headers.get("content-length", "")
    if length.isdecimal():
        _check_num_bytes(int(length[:20]), url, access)
    data = bytearray()
    for chunk in response.iter_raw():
        data += chunk
        _check_num_bytes(len(data), url, access)
    return bytes(data)


# From bytes or an array to pixels


def _decoded(data: bytes, url: str) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    with _refusing("whole and of a known format", url), _without_pil_warnings():
        try:
            image = Image.open(io.BytesIO(data), formats=_known_formats())
        except UnidentifiedImageError:
            formats = ", ".join(_FORMATS)
            raise _error(f"image must be of a known format ({formats}), got {_shown(url)}") from None
        except Image.DecompressionBombError:
            raise _too_large(f"more from {_shown(url)}") from None
        with image:
            _check_size(image.size)
            image.load()
            _check_size(image.size)
            _turn_upright(image)
            return _to_rgb(image)


@functools.lru_cache(maxsize=1)
def _known_formats() -> tuple[str, ...]:
    """Those of the formats that this PIL was built with; it does not take the names of others."""
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _too_large(got: str) -> ValidationError:
    return _error(f"image must have at most {MAX_PIXELS} pixels, got {got}")


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise _error(f"image must have pixels, got {width}x{height}")
    if width * height > MAX_PIXELS:
        raise _too_large(f"{width}x{height}")


def _turn_upright(image: Image.Image) -> None:
    from PIL import ImageOps

    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # a camera's broken tags are no reason to turn down its pixels
        return


def _to_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image as pil_image

    image.load()
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_levels(image)
    if image.has_transparency_data:
        layer = _with_alpha(image)
        image = pil_image.alpha_composite(pil_image.new("RGBA", layer.size, _WHITE), layer)
    return image.convert("RGB")


def _with_alpha(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # from here PIL knows only one way on
        image = image.convert("LA")
    try:
        return image.convert("RGBA")
    except (TypeError, ValueError, OverflowError):  # the colour that is to be transparent is none of this mode
        opaque = image.copy()
        opaque.info.pop("transparency", None)
        return opaque.convert("RGBA")


def _from_levels(image: Image.Image) -> Image.Image:
    """Grey levels of more than 8 bits as RGB; PIL's own conversion would make everything above 255 white.

    16 bits keep their upper half, as PIL has it for 16-bit colours. Wider integers and floats do not say what their
    white is: it is the least of 1 (floats), 255 and 65535 that is not exceeded, and a range beyond those is stretched.
    """
    import numpy as np
    from PIL import Image as pil_image

    levels: NDArray[Any] = np.asarray(image)
    if image.mode.startswith("I;16"):
        return pil_image.fromarray((levels >> 8).astype(np.uint8)).convert("RGB")
    levels = np.nan_to_num(levels.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(levels.min()), float(levels.max())
    whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    white = next((white for white in whites if low >= 0.0 and high <= white), None)
    if white is None:
        black, scale = low, 255.0 / ((high - low) or 1.0)
    else:
        black, scale = 0.0, 255.0 / white
    # Scaled before it is shifted: the width of a range may be more than a float32 holds.
    grey = np.clip(np.rint(levels * np.float32(scale) - np.float32(black * scale)), 0, 255)
    return pil_image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _from_array(source: Any) -> Image.Image:
    from PIL import Image

    array = _as_array(source)
    if array is None:
        raise _error(f"image must be {_FORMS}, a PIL image or an array, got {_shown(source)}")
    if array.dtype.name != "uint8" or array.ndim != 3 or array.shape[2] not in _ARRAY_MODES:
        raise _error(
            "image must be an array of uint8 [height, width, channels] with 1, 3 or 4 channels, "
            f"got {array.dtype.name} {list(array.shape)}"
        )
    height, width, num_channels = array.shape
    _check_size((width, height))
    with _refusing("an array that can be read", source):
        pixels = array.reshape(height, width) if num_channels == 1 else array
        return _to_rgb(Image.fromarray(pixels))


def _as_array(source: Any) -> NDArray[Any] | None:
    """The numpy array that a source is, or that a tensor's numbers are in; None for anything else."""
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    if torch is not None and isinstance(source, torch.Tensor):
        with _refusing("a tensor with numbers in it", source):
            if source.dtype != torch.uint8:
                raise _error(f"image must be a tensor of torch.uint8, got {source.dtype} {list(source.shape)}")
            array: NDArray[Any] = source.detach().cpu().numpy()
            return array
    numpy = sys.modules.get("numpy")
    return source if numpy is not None and isinstance(source, numpy.ndarray) else None


# PIL's warnings


_PIL_FILTER: Final = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
"""An entry of `warnings.filters`."""
_warnings_lock = threading.Lock()
_num_decoding = 0


@contextlib.contextmanager
def _without_pil_warnings() -> Iterator[None]:
    """Nothing that PIL has to say of a stranger's image is for the user of this process to act on.

    `warnings.catch_warnings` would put back, from one thread, filters that another is still in need of: so one filter
    for PIL's modules alone is there while any thread decodes.
    """
    global _num_decoding
    with _warnings_lock:
        _num_decoding += 1
        if warnings.filters[:1] != [_PIL_FILTER]:  # others may have come in front of it
            warnings.filterwarnings(_PIL_FILTER[0], module=_PIL_FILTER[3].pattern)
    try:
        yield
    finally:
        with _warnings_lock:
            _num_decoding -= 1
            if _num_decoding == 0:
                with contextlib.suppress(ValueError):  # somebody has put the filters back by now
                    warnings.filters.remove(_PIL_FILTER)  # type: ignore[attr-defined]
