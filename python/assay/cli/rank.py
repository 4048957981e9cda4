"""`assay score` and `assay rerank`: how relevant is a document to a query?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assay.cli.guard import UsageError, fail_for, guarded
from assay.cli.options import INPUT, OUTPUT, InputOptions, ModelOptions, PairOptions, takes
from assay.cli.show import bar, number, one_line, print_json, print_table
from assay.cli.texts import Row, read_rows
from assay.errors import ValidationError

if TYPE_CHECKING:
    from assay.llm import LLM
    from assay.outputs import ScoringRequestOutput


@takes(asked=PairOptions, options=ModelOptions)
@guarded
def score(
    texts: Annotated[list[str] | None, typer.Argument(help="A query, then one or more documents.")] = None,
    *,
    pairs: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=INPUT, help="Pairs: JSON lines with query and document, or two columns split by a tab."
        ),
    ] = None,
    asked: PairOptions,
    options: ModelOptions,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT, help="Print JSON lines.")] = False,
) -> None:
    """Score pairs of texts, in the order given."""
    identities, queries, documents = _read_pairs(texts or [], pairs)
    llm = _load_scorer(options)
    outputs = llm.score(
        queries,
        documents,
        use_tqdm=options.shows_progress(len(documents)),
        pooling_params=options.pooling_params(),
        tokenization_kwargs=options.tokenization(),
        **asked.keywords(),
    )
    table = []
    for index, output in enumerate(outputs):
        query, document = queries[index], documents[index]
        if as_json:
            record = {"index": index, **identities[index], **_outcome("score", output)}
            print_json({**record, "num_tokens": len(output.prompt_token_ids), "query": query, "document": document})
        else:
            shown = number(output.outputs.score) if output.error is None else "failed"
            table.append([str(index + 1), shown, one_line(query, 80), one_line(document)])
    if not as_json:
        print_table(["#", "score #", "query", "document"], table)
    fail_for(outputs)


@takes(source=InputOptions, asked=PairOptions, options=ModelOptions)
@guarded
def rerank(
    documents: Annotated[
        list[str] | None, typer.Argument(help="Documents, names of files (one per line, or JSON lines), or '-'.")
    ] = None,
    *,
    query: Annotated[str, typer.Option("--query", rich_help_panel=INPUT, help="What the documents are ranked for.")],
    source: InputOptions,
    asked: PairOptions,
    options: ModelOptions,
    text_field: Annotated[
        str, typer.Option(rich_help_panel=INPUT, help="Field of JSON lines that holds the document.")
    ] = "text",
    top_k: Annotated[
        int | None, typer.Option("--top-k", "--top-n", min=1, rich_help_panel=OUTPUT, help="Show only the best few.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT, help="Print JSON lines.")] = False,
) -> None:
    """Order documents by their relevance to a query, best first."""
    rows = read_rows(documents or [], source.file or [], is_literal=source.literal, is_json_lines=source.jsonl)
    fields = ("text", "document") if text_field == "text" else (text_field,)
    texts = [row.text(*fields) for row in rows]
    if not texts:
        raise UsageError("no documents in the input")
    llm = _load_scorer(options)
    outputs = llm.score(
        query,
        texts,
        use_tqdm=options.shows_progress(len(texts)),
        pooling_params=options.pooling_params(),
        tokenization_kwargs=options.tokenization(),
        **asked.keywords(),
    )
    scores = [output.outputs.score if output.error is None else -math.inf for output in outputs]
    order = sorted(range(len(texts)), key=lambda index: -scores[index])[:top_k]
    if as_json:
        for rank, index in enumerate(order, start=1):
            output = outputs[index]
            record = {"rank": rank, "index": index, **rows[index].identity, **_outcome("relevance_score", output)}
            print_json({**record, "num_tokens": len(output.prompt_token_ids), "document": texts[index]})
    else:
        is_share = all(0.0 <= value <= 1.0 for value in scores) or llm.pooling_task == "embed"
        table = []
        for rank, index in enumerate(order, start=1):
            shown = number(scores[index]) if outputs[index].error is None else "failed"
            table.append([str(rank), shown, one_line(texts[index]), *([bar(scores[index])] if is_share else [])])
        print_table(["#", "score #", "document", *([""] if is_share else [])], table)
    fail_for(outputs)


def _outcome(name: str, output: ScoringRequestOutput) -> dict[str, object]:
    return {name: output.outputs.score} if output.error is None else {"error": output.error.message}


def _load_scorer(options: ModelOptions) -> LLM:
    """The model as one that scores pairs: where its classifier has several labels but it also embeds, by embeddings."""
    report = options.check()
    by_embeddings = report.tasks[:1] == ("classify",) and report.num_labels != 1 and "embed" in report.tasks
    return options.load(task="embed" if by_embeddings else None)


def _read_pairs(texts: list[str], pairs: Path | None) -> tuple[list[dict[str, object]], list[str], list[str]]:
    if pairs is None:
        if len(texts) < 2:
            raise UsageError("score needs a query and at least one document, or --pairs FILE")
        return [{} for _ in texts[1:]], [texts[0]] * (len(texts) - 1), texts[1:]
    if texts:
        raise UsageError("give either texts or --pairs, not both")
    rows = read_rows([], [pairs], is_literal=False, is_json_lines=False)
    if not rows:
        raise UsageError(f"no pairs in {pairs}")
    columns = [_columns(row) for row in rows]
    return [row.identity for row in rows], [query for query, _ in columns], [document for _, document in columns]


def _columns(row: Row) -> tuple[str, str]:
    """The query and the document of a JSON object, or of a line with a tab."""
    if set(row.fields) == {"text"}:
        columns = row.text("text").split("\t")
        if len(columns) != 2:
            raise UsageError(f"{row.place}: wanted a query and a document split by a tab, got {len(columns)} columns")
        return columns[0], columns[1]
    from assay.doctor.inputs import from_fields

    try:
        example = from_fields(row.fields, row.place)
    except ValidationError as err:
        raise UsageError(str(err)) from err
    if example.pair is None:
        raise UsageError(f"{row.place}: a text needs a document")
    return example.text, example.pair
