"""Files of an active learner: which examples have labels already, and a pool of embeddings without labels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surplus.data import Dataset, read_pool
from surplus.errors import InputError, check_folder
from surplus.examples.active.base import asks_a_model
from surplus.examples.active.datasets import query_dataset
from surplus.examples.embeddings import Embeddings, read_ids
from surplus.training.store import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa


def read_labelled(path: str | Path) -> tuple[list[str], list[str] | None]:
    """Ids that have labels, and the labels where the file gives them.

    Args:
        path: a .csv or .parquet file with a column `id` and perhaps one `label`, or a text file with an id per line.

    Raises:
        InputError: no such file, no column `id`, an id twice.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{str(file)!r} is no file; --labelled takes a .csv, .parquet or text file of ids")
    columns = _columns(file)
    ids, labels = columns["id"], columns.get("label")
    for name, values in columns.items():
        if "" in values:
            raise InputError(f"{file.name} has a row without {name}; fill it in, or leave the row out")
    twice = sorted({i for i in ids if ids.count(i) > 1})[:3] if len(set(ids)) < len(ids) else []
    if twice:
        raise InputError(f"{file.name} lists an id more than once: {', '.join(twice)}")
    return ids, labels


def _columns(file: Path) -> dict[str, list[str]]:
    if file.suffix not in (".csv", ".parquet"):
        try:
            return {"id": [line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip()]}
        except UnicodeDecodeError:
            raise InputError(f"{file.name} is no text; --labelled takes a .csv, .parquet or text file of ids") from None
    import pyarrow as pa

    try:
        if file.suffix == ".csv":
            from pyarrow import csv

            as_text = csv.ConvertOptions(column_types={"id": pa.string(), "label": pa.string()})  # 007 stays 007
            table = csv.read_csv(file, convert_options=as_text)
        else:
            from pyarrow import parquet

            table = parquet.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{file.name} cannot be read: {error}") from None
    if "id" not in table.column_names:
        raise InputError(f"{file.name} has no column id; its columns are {', '.join(table.column_names)}")
    there = [name for name in ("id", "label") if name in table.column_names]
    return {name: ["" if v is None else str(v) for v in table.column(name).to_pylist()] for name in there}


def query_embeddings(
    embeddings: str | Path,
    strategy: str,
    budget: int,
    *,
    labelled: str | Path | None = None,
    seed: int = 0,
    **options: Any,
) -> pa.Table:
    """The ids of the embeddings to label next, in order: `query_dataset` for a pool without labels.

    Args:
        embeddings: Parquet files with a column `id`.
        strategy: a registered query strategy.
        budget: how many to label.
        labelled: a file of the ids that have labels; with a column `label` for strategies that ask a model.
        seed: for all draws.
        options: the strategy's own settings.

    Raises:
        InputError: what `query_dataset` refuses, or a strategy that asks a model for labels that are not given.
    """
    ids, labels = ([], None) if labelled is None else read_labelled(labelled)
    if ids and labels is None and asks_a_model(strategy):
        raise InputError(f"the strategy {strategy!r} learns from labels; give the labelled file a column label")
    pool = pool_of(embeddings, ids, labels)
    return query_dataset(pool, strategy, budget, labelled=ids, embeddings=pool.inputs, seed=seed, **options)


def query_source(
    source: str | Path,
    strategy: str,
    budget: int,
    *,
    labelled: str | Path | None = None,
    labels: str | None = None,
    ids: str | None = None,
    seed: int = 0,
    **options: Any,
) -> pa.Table:
    """The ids of a source's examples to label next, in order; the source itself needs no labels.

    Args:
        source: as for `surplus.data.read_pool`.
        strategy: a registered query strategy.
        budget: how many to label.
        labelled: a file of the ids that have labels; their labels come from its column `label`, or else the source's.
        labels: the source's column of classes.
        ids: the source's column of ids.
        seed: for all draws.
        options: the strategy's own settings.

    Raises:
        InputError: what `read_pool` and `query_dataset` refuse, or labels that a strategy learns from and are nowhere.
    """
    pool, own = read_pool(source, labels=labels, ids=ids)
    known, given = ([], None) if labelled is None else read_labelled(labelled)
    at = {str(i): row for row, i in enumerate(pool.ids.tolist())}
    words: list[str | None] = [*given] if given else [own[at[i]] if i in at else None for i in known]
    if asks_a_model(strategy) and None in words:
        raise InputError(
            f"the strategy {strategy!r} learns from labels, and {words.count(None)} labelled examples have none;"
            " give the labelled file a column label"
        )
    classes = sorted({w for w in words if w is not None}) or ["unknown"]
    targets = torch.zeros(len(pool), dtype=torch.int64)
    for i, word in zip(known, words, strict=True):
        if i in at and word is not None:
            targets[at[i]] = classes.index(word)
    pool = replace(pool, targets=targets, classes=tuple(classes))
    return query_dataset(pool, strategy, budget, labelled=known, seed=seed, **options)


def check_queries(path: str | Path) -> None:
    """Refuse a path that no table of queries can be written to, before any work is done for it.

    Raises:
        InputError: neither .csv nor .parquet, a folder, or no permission.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".parquet") or path.is_dir():
        raise InputError(f"queries are written to a .csv or .parquet file; got {str(path)!r}")
    check_folder(path.parent)


def write_queries(path: str | Path, table: pa.Table) -> None:
    """A table of queries as .csv, or as .parquet if the name says so.

    Raises:
        InputError: as `check_queries`.
    """
    from pyarrow import csv, parquet

    check_queries(path)
    buffer = io.BytesIO()
    (parquet.write_table if Path(path).suffix == ".parquet" else csv.write_csv)(table, buffer)
    write_atomically(Path(path), buffer.getvalue())


def pool_of(embeddings: str | Path, ids: Sequence[Any] = (), labels: Sequence[str] | None = None) -> Dataset:
    """A pool of unlabelled embeddings as a data set; where labels are not known its targets mean nothing.

    Args:
        embeddings: Parquet files, with their ids in a column `id`; row numbers where there is none.
        ids: those that have labels.
        labels: their labels.

    Raises:
        InputError: ids that are not among the embeddings'.
    """
    h = Embeddings.of(embeddings).all()
    names = [str(i) for i in read_ids(embeddings)]
    classes = sorted(set(labels or ())) or ["unknown"]
    targets, at = torch.zeros(len(h), dtype=torch.int64), {name: row for row, name in enumerate(names)}
    strange = [i for i in ids if i not in at]
    if strange:
        raise InputError(f"{len(strange)} labelled ids are not among the embeddings: {', '.join(strange[:5])}")
    for i, label in zip(ids, labels or (), strict=False):
        targets[at[i]] = classes.index(label)
    return Dataset(h, targets, np.array(names), tuple(classes), "table")
