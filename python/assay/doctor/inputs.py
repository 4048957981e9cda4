"""The inputs to compare on: the user's own, or a built-in set of cases that tend to go wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from assay.errors import ValidationError

QUERY_FIELDS: Final = ("query", "text_1", "sentence1")
DOCUMENT_FIELDS: Final = ("document", "text_2", "text_pair", "sentence2")


@dataclass(frozen=True, slots=True)
class Example:
    """One text, or a pair of texts; `name` says what it is there for."""

    name: str
    text: str
    pair: str | None = None

    @property
    def as_input(self) -> str | tuple[str, str]:
        """What a tokenizer takes."""
        return self.text if self.pair is None else (self.text, self.pair)


_SINGLES: Final = (
    ("plain", "The delivery came two days early and everything was in the box."),
    ("plain", "I asked for a refund three times and nobody has answered."),
    ("plain", "The manual is clear, the hinges are not, and the paint comes off on your hands."),
    ("plain", "Rates were left unchanged on Thursday, as most analysts had expected."),
    ("plain", "What time does the last train to the coast leave on a Sunday?"),
    ("plain", "Not bad at all, though I would not call it good either."),
    ("question", "Who wrote the song that plays during the final scene?"),
    ("capitals", "DO NOT BUY THIS. WORST PURCHASE of my LIFE."),
    ("one word", "excellent"),
    ("one letter", "a"),
    ("digits", "On 2024-02-29 at 07:45 we shipped 1,250 units for $3,499.00 (ref. #A-77/b)."),
    ("punctuation", "Well... really?! (yes); 'no' -- \"maybe\" [sic] {x} <y> & so on @ 100%"),
    ("accents", "Der Größenwahn des naïven Café-Besitzers überraschte Zoë und José gleichermaßen."),
    ("combining marks", "cafe\u0301 re\u0301sume\u0301 A\u030angstrom"),
    ("CJK", "这家餐厅的服务很好，但是价格有点贵。"),
    ("Japanese", "昨日買ったカメラはとても使いやすくて気に入っています。"),
    ("Korean", "배송이 빨라서 좋았지만 포장이 아쉬웠어요."),
    ("Arabic", "كانت التجربة رائعة وسأعود مرة أخرى قريبا."),
    ("Hindi", "यह फिल्म बहुत अच्छी थी और मुझे पसंद आई।"),
    ("Cyrillic", "Обслуживание медленное, зато кухня отличная."),
    ("mixed scripts", "Order 注文 №42 für Ольга: ok✓"),
    ("emoji", "Loved it 😍🔥🔥 but the ending 😭💔"),
    ("joined emoji", "Family 👨‍👩‍👧‍👦 flag 🇨🇭 thumbs 👍🏽"),
    ("trailing spaces", "There are spaces after this.   "),
    ("leading spaces", "   There are spaces before this."),
    ("inner white space", "tabs\tand\nnew lines\r\nand  double   spaces\u00a0and\u2003wide ones"),
    ("only spaces", "   "),
    ("empty", ""),
    ("zero width", "zero\u200bwidth\u200djoiner\ufeffmark"),
    ("control characters", "bell\x07 and null\x00 and escape\x1b[0m"),
    ("markup", '<p class="x">Hello &amp; <b>welcome</b></p><!-- note -->'),
    ("code", "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; } // dot product"),
    ("address", "Write to a.b+c@example.org or see https://example.org/a/b?c=d&e=%20f#g"),
    ("special tokens as text", "[CLS] is not <s> and [SEP] is not </s>, nor is [MASK] a <mask>"),
    ("long word", "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"),
    ("unbroken run", "x" * 300),
    ("repeated", "very " * 60 + "good"),
    ("long", "The committee met again and adjourned without a decision. " * 30),
    ("longer than the model", "Every clause of the agreement was read aloud, disputed, and amended. " * 120),
)

_QUERY: Final = "How do I reset a forgotten password?"

_PAIRS: Final = (
    (
        "pair, relevant",
        _QUERY,
        "Choose 'Forgot password' on the sign-in page and follow the link sent to your mailbox.",
    ),
    ("pair, close", _QUERY, "Passwords must have at least twelve characters and are changed once a year."),
    ("pair, off topic", _QUERY, "The museum is closed on Mondays and on public holidays."),
    ("pair, same text", _QUERY, _QUERY),
    ("pair, empty document", _QUERY, ""),
    ("pair, empty query", "", "The library lends tools as well as books."),
    ("pair, both empty", "", ""),
    ("pair, one word", "python", "snake"),
    ("pair, trailing spaces", "opening hours  ", "We are open from nine to five.  "),
    ("pair, CJK", "如何重置密码？", "在登录页面点击“忘记密码”，然后按照邮件中的说明操作。"),
    ("pair, two scripts", "best noodle soup in Sapporo", "札幌で一番おいしい味噌ラーメンの店を紹介します。"),
    ("pair, emoji", "is it raining ☔?", "Sunny all week 😎☀️"),
    ("pair, digits", "invoice 2023-118 total", "Invoice 2023-118: net 1,204.50, VAT 229.86, total 1,434.36"),
    ("pair, code", "swap two variables", "a, b = b, a  # no temporary needed"),
    ("pair, plain", "average rainfall in April", "April brings 62 mm of rain on nine days, on average."),
    ("pair, plain", "symptoms of iron deficiency", "Tiredness, pale skin and shortness of breath are common signs."),
    ("pair, plain", "capital of Australia", "Sydney is the largest city of Australia."),
    ("pair, plain", "capital of Australia", "Parliament House stands on Capital Hill in Canberra."),
    ("pair, long document", _QUERY, "Accounts are kept by the help desk, which is staffed on weekdays. " * 25),
    ("pair, long query", "why does the old heater in the hall make a knocking noise at night " * 12, "Trapped air."),
    ("pair, both long", "notes on the treaty and what followed from it " * 60, "The delegates returned home. " * 90),
    ("pair, longer than the model", _QUERY, "Chapter after chapter repeats what the preface had promised. " * 150),
)


def built_in(*, with_pairs: bool) -> list[Example]:
    """The built-in inputs: single texts, and pairs for models that take them."""
    singles = [Example(name, text) for name, text in _SINGLES]
    return singles + [Example(name, text, pair) for name, text, pair in _PAIRS] if with_pairs else singles


def from_fields(fields: dict[str, Any], place: str) -> Example:
    """An example from a JSON object with `text`, or with `query` and `document` (or their usual other names)."""
    query = next((name for name in QUERY_FIELDS if name in fields), None)
    document = next((name for name in DOCUMENT_FIELDS if name in fields), None)
    first = query or ("text" if "text" in fields else None)
    if first is None:
        raise ValidationError(f"{place}: wanted a field text, or query and document, got {sorted(fields)}")
    values = [fields[first]] + ([fields[document]] if document else [])
    for value in values:
        if not isinstance(value, str):
            raise ValidationError(f"{place}: texts must be strings, got {type(value).__name__}")
    if query and not document:
        raise ValidationError(f"{place}: a query needs a document")
    return Example(place, *values)
