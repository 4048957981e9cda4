"""`assay classify`: which class is each text?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay.cli.guard import UsageError, fail_for_errors, guarded
from assay.cli.options import INPUT, OUTPUT, InputOptions, ModelOptions, takes
from assay.cli.show import bar, number, one_line, print_json, print_table
from assay.cli.texts import Row, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assay.llm import LLM

Input = str | list[dict[str, Any]]
"""A text, or the messages of a conversation."""

CHUNK = 4096
"""Rows handed to the model at once: what `--json` prints as it goes."""


@takes(source=InputOptions, options=ModelOptions)
@guarded
def classify(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts, names of files (one text per line, or JSON lines), or '-'.")
    ] = None,
    *,
    source: InputOptions,
    options: ModelOptions,
    text_field: Annotated[
        str, typer.Option(rich_help_panel=INPUT, help="Field of JSON lines that holds the text.")
    ] = "text",
    top_k: Annotated[
        int, typer.Option(min=1, rich_help_panel=OUTPUT, help="How many labels to show of each text.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT, help="Print JSON lines.")] = False,
) -> None:
    """Say which class each text belongs to."""
    rows = read_rows(texts or [], source.file or [], is_literal=source.literal, is_json_lines=source.jsonl)
    inputs = [_input(row, text_field) for row in rows]
    if not inputs:
        raise UsageError("no texts in the input")
    if len({isinstance(given, str) for given in inputs}) > 1:
        raise UsageError("the input holds both texts and conversations: classify them apart")
    llm = options.load()
    by_token = llm.pooling_task == "token_classify"
    run = _classify_tokens if by_token else _classify_texts
    chunk = CHUNK if as_json else len(rows)
    errors: dict[int, str] = {}
    for start in range(0, len(rows), chunk):
        records = run(llm, options, rows[start : start + chunk], inputs[start : start + chunk], start, top_k)
        records = _noting_errors(records, errors)
        if as_json:
            for record in records:
                print_json(record)
        elif by_token:
            _show_tokens(records)
        else:
            _show_texts(records, is_raw=options.raw)
    fail_for_errors(errors, len(rows))


def _noting_errors(records: Iterator[dict[str, Any]], errors: dict[int, str]) -> Iterator[dict[str, Any]]:
    """The records as they come; what those without a result say is put into `errors`, by index."""
    for record in records:
        if "error" in record:
            errors[record["index"]] = record["error"]
        yield record


def _input(row: Row, text_field: str) -> Input:
    """A line's text, or the conversation under `messages` where it has no text."""
    if "messages" not in row.fields or text_field in row.fields:
        return row.text(text_field)
    messages: Any = row.fields["messages"]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise UsageError(f"{row.place}: field 'messages' must be a list of objects")
    return messages


def _named(given: Input) -> dict[str, Input]:
    """An input under the name it has in the output."""
    return {"text": given} if isinstance(given, str) else {"messages": given}


def _classify_texts(
    llm: LLM, options: ModelOptions, rows: list[Row], inputs: list[Input], start: int, top_k: int
) -> Iterator[dict[str, Any]]:
    outputs = llm.classify(
        inputs,
        pooling_params=options.pooling_params(),
        use_tqdm=options.shows_progress(len(inputs)),
        tokenization_kwargs=options.tokenization(),
    )
    for index, (row, text, output) in enumerate(zip(rows, inputs, outputs, strict=True), start=start):
        if output.error is not None:
            yield {"index": index, **row.identity, "error": output.error.message, **_named(text)}
            continue
        probs, labels = output.outputs.probs, output.outputs.labels
        top = [{"label": _label(labels, i), "score": probs[i]} for i in _best(probs, top_k)]
        record = {"index": index, **row.identity, **top[0], "probs": probs}
        if top_k > 1:
            record["top"] = top
        yield {**record, "num_tokens": len(output.prompt_token_ids), **_named(text)}


def _classify_tokens(
    llm: LLM, options: ModelOptions, rows: list[Row], inputs: list[Input], start: int, top_k: int
) -> Iterator[dict[str, Any]]:
    outputs = llm.encode(
        inputs,
        options.pooling_params(),
        pooling_task="token_classify",
        use_tqdm=options.shows_progress(len(inputs)),
        tokenization_kwargs=options.tokenization(),
    )
    tokenizer = llm.get_tokenizer()
    labels = llm.labels
    for index, (row, text, output) in enumerate(zip(rows, inputs, outputs, strict=True), start=start):
        if output.error is not None:
            yield {"index": index, **row.identity, "error": output.error.message, **_named(text)}
            continue
        tokens = []
        words = tokenizer.convert_ids_to_tokens(output.prompt_token_ids)
        for word, scores in zip(words, output.outputs.data.tolist(), strict=True):
            top = [{"label": _label(labels, i), "score": scores[i]} for i in _best(scores, top_k)]
            tokens.append({"token": word, **top[0], **({"top": top} if top_k > 1 else {})})
        yield {"index": index, **row.identity, "tokens": tokens, **_named(text)}


def _line(record: dict[str, Any]) -> str:
    """An input on one line; of a conversation the last message."""
    return one_line(record["text"] if "text" in record else str(record["messages"][-1].get("content")))


def _best(scores: list[float], count: int) -> list[int]:
    """Positions of the largest scores, the first of equals first."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])[:count]


def _label(labels: Any, index: int) -> str:
    name = labels[index] if labels and index < len(labels) else None
    return str(index) if name is None else str(name)


def _show_texts(records: Iterator[dict[str, Any]], *, is_raw: bool) -> None:
    columns = ["#", "text", "label", "score #"] + ([] if is_raw else [""])
    table = []
    for record in records:
        top = _top(record)
        cells = [str(record["index"] + 1), _line(record), *_label_cells(top)]
        if not is_raw:
            cells.append("\n".join(bar(entry["score"]) for entry in top))
        table.append(cells)
    print_table(columns, table)


def _show_tokens(records: Iterator[dict[str, Any]]) -> None:
    for record in records:
        tokens = record.get("tokens", [{"token": "", "error": ""}])  # a table of one failed row where there are none
        table = [[token["token"], *_label_cells(_top(token))] for token in tokens]
        print_table(["token", "label", "score #"], table, title=f"{record['index'] + 1}. {_line(record)}")


def _top(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The labels to show of a text or token, best first; none where it has no result."""
    top: list[dict[str, Any]] = entry.get("top", [] if "error" in entry else [entry])
    return top


def _label_cells(top: list[dict[str, Any]]) -> list[str]:
    """The cells of the columns label and score."""
    if not top:
        return ["", "failed"]
    return ["\n".join(entry["label"] for entry in top), "\n".join(number(entry["score"]) for entry in top)]
