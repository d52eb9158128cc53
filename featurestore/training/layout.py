"""What a training set is on disk: ``set.json``, and the classes that stand for it.

::

    sets/<hash>/
      part-00000.parquet …   the rows in order of label time; row groups of 131,072
      nulls.bin              which rows of the columns with nulls are valid; not there without any
      set.json               what the rest means: columns, pages, profile           (this module)
      lineage.json           where it came from; the one file that differs when it is made again

Columns of features are numbers, written plain and not compressed: one page for each column of a row
group, so that a loader finds any stripe of them by its first byte.  Texts that are features are
categories, numbered as they first appear; ``set.json`` has the texts.  A vector is as many columns
as it has components.  All other columns (keys, times, lists) are compressed as Parquet is wont to
be.

Parquet packs the values of a column with nulls.  ``nulls.bin`` says where they belong::

    int32 × stripes    how many values lie before each stripe of 4,096 rows
    bits × rows        whether the row has a value; least significant bit first
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from featurestore.errors import CorruptStore, IncompatibleStore
from featurestore.storage import files

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
ROW_GROUP_ROWS = 131_072
#: Row groups of a part: eight million rows.
PART_ROW_GROUPS = 64

SET_FILE, LINEAGE_FILE, NULLS_FILE = "set.json", "lineage.json", "nulls.bin"


@dataclass(frozen=True)
class Column:
    """One column of a set's files.

    Attributes
    ----------
    name : str
        As in the Parquet files.
    type : str
        Arrow's name of the type that the values had; of a category ``"string"``.
    role : str
        ``"label"``; ``"feature"``; ``"other"``: not a number, or a column of the labels that is
        no feature.
    kind : int or None
        How the loader reads it (``kernels.rows``); None for other columns.
    categories : tuple of str or None
        The texts that codes stand for.
    fill : float
        What a loader puts for null; NaN unless the request said otherwise.
    """

    name: str
    type: str
    role: str
    kind: int | None = None
    categories: tuple[str, ...] | None = None
    fill: float | None = None


@dataclass(frozen=True)
class Part:
    """One Parquet file.

    Attributes
    ----------
    rows : tuple of int
        Of each row group.
    times_us : tuple of (int, int)
        First and last label time of each row group.
    """

    name: str
    size_bytes: int
    digest: str
    rows: tuple[int, ...]
    times_us: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layout:
    """The content of ``set.json``.

    Attributes
    ----------
    plan : dict
        The request: what the hash is of.
    columns : tuple of Column
        In the order of the files.
    parts : tuple of Part
        In the order of the rows.
    nulls : (int, str) or None
        Size and digest of ``nulls.bin``.
    pages : tuple
        For each row group, for each feature and then the label: byte of the first value in its
        part, how many values, byte of its ranks in ``nulls.bin`` or -1.
    profile : dict
        What the quality report is made of.
    """

    plan: dict[str, Any]
    columns: tuple[Column, ...]
    parts: tuple[Part, ...]
    nulls: tuple[int, str] | None
    pages: tuple[tuple[tuple[int, int, int], ...], ...]
    profile: dict[str, Any]

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns of the matrix, in order."""
        return tuple(column for column in self.columns if column.role == "feature")

    @property
    def label(self) -> Column | None:
        """The label; None for a set without one."""
        return next((column for column in self.columns if column.role == "label"), None)

    @property
    def matrix(self) -> tuple[Column, ...]:
        """What a loader reads: the features, then the label."""
        return self.features if self.label is None else (*self.features, self.label)

    def to_bytes(self) -> bytes:
        """Return the file; the same for equal layouts."""
        fields = {"format": FORMAT, **asdict(self)}
        # No NaN in JSON: None stands for it.
        text = json.dumps(fields, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
        return text.encode() + b"\n"

    @classmethod
    def read(cls, folder: Path) -> Layout:
        """Read the layout of a set.

        Raises
        ------
        CorruptStore
            The file is missing or unreadable.
        IncompatibleStore
            It was written by a newer version.
        """
        path = folder / SET_FILE
        try:
            fields = json.loads(files.content(path))
            found = fields.pop("format")
            if found != FORMAT:
                raise IncompatibleStore(
                    f"{path} has format {found}; this version of featurestore reads format "
                    f"{FORMAT}. Upgrade featurestore to open it."
                )
            fields["columns"] = tuple(
                Column(**c | {"categories": c["categories"] and tuple(c["categories"])})
                for c in fields["columns"]
            )
            fields["parts"] = tuple(
                Part(**p | {"rows": tuple(p["rows"]), "times_us": tuple(map(tuple, p["times_us"]))})
                for p in fields["parts"]
            )
            fields["pages"] = tuple(tuple(map(tuple, pages)) for pages in fields["pages"])
            fields["nulls"] = fields["nulls"] and tuple(fields["nulls"])
            return cls(**fields)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptStore(
                f"{path} cannot be read ({error}). Delete the training set and request it again: "
                "the same request makes the same set."
            ) from error
