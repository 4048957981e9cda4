"""Jinja templates for chats and scored pairs, rendered in a sandbox with what transformers' templates may use.

A template is foreign code: it can read what it is given and nothing else, and whatever it raises is the caller's error.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from assay.errors import ConfigError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import jinja2

SHIPPED: Final = Path(__file__).parent / "score_templates"
"""The templates that come with the package; each can be asked for by its file name."""


class Template:
    """A compiled template and the special tokens it may name (bos_token, eos_token, ...)."""

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None, name: str = "template") -> None:
        self.source = source
        self.name = name
        self._special_tokens = dict(special_tokens or {})
        self._compiled = _compile(source)

    def render(self, messages: list[dict[str, Any]], /, **variables: Any) -> str:
        """The text for `messages`; raises ValidationError with the template's own reason where it refuses them."""
        known = {"tools": None, "documents": None, "add_generation_prompt": False, **self._special_tokens}
        try:
            return self._compiled.render({**known, **variables, "messages": messages})
        except MemoryError:
            raise
        except Exception as err:
            raise ValidationError(f"the chat template failed: {err or type(err).__name__}") from err

    @functools.cached_property
    def variables(self) -> frozenset[str]:
        """The variables the template reads."""
        from jinja2 import meta

        return frozenset(meta.find_undeclared_variables(_environment().parse(self.source)))

    @functools.cached_property
    def takes_parts(self) -> bool:
        """Whether the template walks through a message's content instead of printing it: it wants a list of parts."""
        from jinja2 import nodes

        tree = _environment().parse(self.source)
        return any(_is_content(loop.iter) for loop in tree.find_all(nodes.For))


def template_source(given: str | os.PathLike[str]) -> str:
    """The text of a template given as a file, the name of a shipped one, or the text itself; raises ConfigError."""
    text = os.fspath(given)
    for path in (Path(text), SHIPPED / text):
        try:
            if path.is_file():
                return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as err:
            raise ConfigError(f"chat template {text!r} is not UTF-8 text: {err}") from err
        except (OSError, ValueError):  # longer than a file name may be, or with a NUL in it: a text
            break
    if any(char in text for char in "{}\n"):
        return text
    shipped = ", ".join(sorted(path.name for path in SHIPPED.glob("*.jinja")))
    raise ConfigError(f"chat template {text!r}: there is no such file, and it is no template; shipped are {shipped}")


def _is_content(node: Any) -> bool:
    """Whether an expression is `message.content` or `message["content"]`, perhaps with filters behind it."""
    from jinja2 import nodes

    while isinstance(node, nodes.Filter):
        node = node.node
    if isinstance(node, nodes.Getattr):
        return bool(node.attr == "content")
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == "content"


def _compile(source: str) -> jinja2.Template:
    from jinja2 import TemplateSyntaxError

    try:
        return _environment().from_string(source)
    except TemplateSyntaxError as err:
        raise ValidationError(f"the chat template is not valid: line {err.lineno}: {err.message}") from err
    except RecursionError as err:
        raise ValidationError("the chat template is not valid: it is nested too deep") from err


def _environment() -> jinja2.Environment:
    """The settings, filters and functions that transformers gives chat templates."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} marks what a model wrote, for training; here its content is printed as it is."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    return environment


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own filter escapes for HTML; a prompt wants the characters themselves."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _now(format: str) -> str:
    return datetime.datetime.now().strftime(format)
