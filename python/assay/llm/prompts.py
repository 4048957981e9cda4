"""The templates of one model: which one renders a conversation, and which one a scored pair."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from assay.chat import NO_TEMPLATE, render_chat
from assay.errors import ValidationError
from assay.media import Illustrated
from assay.templated import ScoreTemplate, added_bos, ends_of
from assay.templates import Template, template_source

if TYPE_CHECKING:
    from assay.chat import ChatOptions, Message
    from assay.media import ImageRules
    from assay.recipes import Recipe
    from assay.tokenizer import Tokenizer

    Source = str | os.PathLike[str]

logger = logging.getLogger(__name__)

_KEPT: Final = 16
"""Compiled templates kept; a call may bring its own."""
_RESERVED: Final = ("messages", "chat_template", "tools", "tokenize")
_INSTRUCTIONS: Final = frozenset(("instruction", "instruct"))


class Prompts:
    """chat_template: for conversations, instead of the tokenizer's. score_template: for pairs, instead of the recipe's.

    is_converted: the head is made of a language model's, which was trained on a prompt; pairs without one are warned
    about. image_rules: of a model that takes images. Shared by any number of threads. Raises ConfigError or
    ValidationError for a template that is none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        architecture: str,
        recipe: Recipe | None,
        chat_template: Source | None = None,
        score_template: Source | None = None,
        *,
        is_converted: bool = False,
        image_rules: ImageRules | None = None,
    ) -> None:
        self.image_rules = image_rules
        self._tokenizer = tokenizer
        self._architecture = architecture
        self._recipe = recipe
        self._is_converted = is_converted
        self._compiled = functools.lru_cache(maxsize=_KEPT)(self._compile)
        self._chat_source = None if chat_template is None else template_source(chat_template)
        self._score_source = None if score_template is None else template_source(score_template)
        self._warned: set[str] = set()
        for source in (self._chat_source, self._score_source):
            if source is not None:
                self._compiled(source)

    def chat_prompt(self, messages: Sequence[Message], options: ChatOptions) -> str | Illustrated:
        """A conversation as text, and its images; raises ValidationError where there is no template, or it refuses the
        messages.
        """
        template = self._compiled(self._chat_template(options))
        rendered = render_chat(template, messages, options, self._architecture, self.image_rules)
        return Illustrated(rendered.text, rendered.images) if rendered.images else rendered.text

    def source(self, given: Source | None) -> str | None:
        """The text of a template a caller names: one of the tokenizer's, a file, a shipped one, or the text itself.

        For callers on this machine: a name that came over the network would open its files to the sender.
        """
        if given is None or given in self._own_chat_templates:
            return None if given is None else self._own_chat_templates[os.fspath(given)]
        return template_source(given)

    def _chat_template(self, options: ChatOptions) -> str:
        own = self._own_chat_templates
        if options.chat_template is not None:
            return options.chat_template
        if self._chat_source is not None:
            return self._chat_source
        if "default" not in own:
            names = f" It has the named ones {', '.join(own)}." if own else ""
            raise ValidationError(NO_TEMPLATE + names)
        return own["default"]

    @functools.cached_property
    def _own_chat_templates(self) -> dict[str, str]:
        """The tokenizer's templates by name; a single one is called "default"."""
        saved = None if self._tokenizer is None else self._tokenizer.facts.chat_template
        return dict(saved) if isinstance(saved, Mapping) else {"default": saved} if saved else {}

    def score_template(
        self, given: str | None, variables: Mapping[str, Any] | None, instruction: str | None = None
    ) -> ScoreTemplate | None:
        """What renders the pairs of one call; None where the tokenizer encodes them.

        given: the text of the call's own template. variables: its chat_template_kwargs; instruction joins them, unless
        they hold one. Raises ValidationError for reserved keys.
        """
        variables = self._variables(variables, instruction)
        source = given if given is not None else self._score_source
        prompt, takes_system, ends = None, False, None
        if source is None and self._recipe is not None:
            source, prompt = self._recipe.template_source(), self._recipe.prompt
            takes_system = self._recipe.template_text is not None
            variables = {**self._recipe.template_kwargs, **variables}
            ends = self._recipe_ends
        if source is None:
            if variables:
                self._warn("no score template is in use: chat_template_kwargs and instruction have no effect")
            if self._is_converted and self._recipe is None:
                self._warn(
                    "pairs are scored without a template. A language model gives useful scores only behind the prompt "
                    "it was trained with: pass one as chat_template (or score_template of LLM)"
                )
            return None
        template = self._compiled(source)
        has_instruction = bool(_INSTRUCTIONS & variables.keys())
        if has_instruction and not takes_system and not template.variables & _INSTRUCTIONS:
            self._warn("the score template reads no instruction: the one given has no effect")
        suffix_ids = () if self._recipe is None else self._recipe.suffix_ids
        return ScoreTemplate(template, variables, prompt, takes_system, self._added_bos, ends, suffix_ids)

    @functools.cached_property
    def _recipe_ends(self) -> tuple[str, str] | None:
        """Of a shipped template: callers that put the prompt around the texts themselves are not to get it twice."""
        recipe = self._recipe
        source = None if recipe is None or recipe.template_text is not None else recipe.template_source()
        return None if source is None else ends_of(self._compiled(source))

    @staticmethod
    def _variables(variables: Mapping[str, Any] | None, instruction: str | None) -> dict[str, Any]:
        if variables is not None and not isinstance(variables, Mapping):
            raise ValidationError(f"chat_template_kwargs must be a dict, got {type(variables).__name__}")
        if instruction is not None and not isinstance(instruction, str):
            raise ValidationError(f"instruction must be a str, got {type(instruction).__name__}")
        merged = dict(variables or {})
        reserved = {name for name in _RESERVED if name in merged}
        if reserved:
            raise ValidationError(
                f"chat_template_kwargs contains reserved keys that conflict with fixed scorer arguments: {reserved}"
            )
        if instruction is not None:
            merged.setdefault("instruction", instruction)
        return merged

    def _compile(self, source: str) -> Template:
        return Template(source, {} if self._tokenizer is None else self._tokenizer.facts.special_tokens)

    @functools.cached_property
    def _added_bos(self) -> str | None:
        return None if self._tokenizer is None else added_bos(self._tokenizer)

    def _warn(self, message: str) -> None:
        """Once per message: a client that always sends an instruction is told once."""
        if message not in self._warned:
            self._warned.add(message)
            logger.warning("%s: %s", self._architecture, message)
