"""How rows are printed, and written with their types."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from xml.etree import ElementTree

import duckdb
import pytest

from dressage.analytics.query import Budget, run_query
from dressage.cli.answers import as_text, show
from dressage.client.finding import QueryResult
from dressage.protocol.errors import BadInput

EVERYTHING = """
SELECT 1::INTEGER AS i, 9007199254740993::BIGINT AS b, 170141183460469231731687303715884105727::HUGEINT AS h,
    1.5::DOUBLE AS d, 12.50::DECIMAL(10, 2) AS m, 'a "b" ☃'::VARCHAR AS s, true AS t,
    TIMESTAMPTZ '2026-01-02 03:04:05.123456+00' AS at, TIMESTAMP '2026-01-02 03:04:05' AS local,
    DATE '2026-01-02' AS day,
    INTERVAL 3 HOUR AS span, '\\xAA\\x00'::BLOB AS raw, [1, 2]::BIGINT[] AS list, {'x': 1, 'y': 'z'} AS record,
    '{"k": [1]}'::JSON AS doc, NULL::VARCHAR AS nothing
UNION ALL BY NAME SELECT 2::INTEGER AS i
"""


def answer(sql: str) -> QueryResult:
    with duckdb.connect() as file:
        file.execute("SET TimeZone = 'UTC'")
        file.execute("CREATE TABLE positions (stream VARCHAR, position UBIGINT)")
        return run_query(file, sql, None, Budget(1_000, 1 << 30, 10.0))


def test_parquet_has_the_rows_with_their_types(tmp_path: Path) -> None:
    result, path = answer(EVERYTHING), tmp_path / "rows.parquet"
    show(result, "parquet", path)
    with duckdb.connect() as file:
        file.execute("SET TimeZone = 'UTC'")
        read = file.execute(f"SELECT * REPLACE (h::VARCHAR AS h) FROM '{path}' ORDER BY i").fetchall()
        wanted = file.execute(
            f"SELECT * REPLACE (h::DOUBLE::VARCHAR AS h) FROM ({EVERYTHING}) ORDER BY i"
        ).fetchall()
        types = dict(
            file.execute(f"SELECT column_name, column_type FROM (DESCRIBE FROM '{path}')").fetchall()
        )
    assert len(read) == len(wanted) == 2
    # Parquet has no type for the largest integers: DuckDB writes those as DOUBLE.
    names = result.columns
    for got, row in zip(read, wanted, strict=True):
        told, meant = dict(zip(names, got, strict=True)), dict(zip(names, row, strict=True))
        doc, wanted_doc = told.pop("doc"), meant.pop("doc")
        assert (doc is None) is (wanted_doc is None)
        assert doc is None or json.loads(doc) == json.loads(wanted_doc)
        assert told == meant
    assert (types["m"], types["at"], types["list"]) == (
        "DECIMAL(10,2)",
        "TIMESTAMP WITH TIME ZONE",
        "BIGINT[]",
    )


def test_parquet_needs_a_file() -> None:
    with pytest.raises(BadInput, match="--output"):
        show(answer("SELECT 1"), "parquet", None)


def test_a_chart_has_a_bar_for_each_row() -> None:
    sql = "SELECT * FROM (VALUES ('a', 4, 1), ('b', 2, 9), ('c', NULL, 9), ('d', -1, 0)) t(name, runs, other)"
    lines = as_text(answer(sql), "chart", wide=True).splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["name", "runs"],
        ["a", "4"],
        ["b", "2"],
        ["c", "-"],
        ["d", "-1"],
    ]
    assert [line.count("█") for line in lines] == [0, 60, 30, 0, 0]
    with pytest.raises(BadInput, match="bars are of numbers"):
        as_text(answer("SELECT 'a' AS name"), "chart", wide=True)
    assert as_text(answer("SELECT 1 AS n WHERE false"), "chart", wide=True).split() == ["n"]


def test_what_is_written_to_a_file_is_what_is_printed(tmp_path: Path) -> None:
    result = answer("SELECT 1 AS x, 'ü' AS y")
    show(result, "json", tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == [{"x": 1, "y": "ü"}]
    show(result, "csv", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().split() == ["x,y", "1,ü"]


ROWS = "SELECT * FROM (VALUES ('a $x$ <b>', 4), ('ü ☃', 2), (NULL, NULL), ('d', -1)) t(name, runs)"


def test_a_picture_has_a_bar_for_each_row(tmp_path: Path) -> None:
    show(answer(ROWS), "svg", tmp_path / "a.svg")
    drawn = ElementTree.parse(tmp_path / "a.svg").getroot()
    said = ["".join(each.itertext()) for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert [each for each in said if each in ("a $x$ <b>", "ü ☃", "-", "d", "runs")] == [
        "runs",
        "a $x$ <b>",
        "ü ☃",
        "-",
        "d",
    ]
    assert {"4", "2", "-1"} <= set(said)
    show(answer(ROWS), "svg", tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    show(answer(ROWS), "png", tmp_path / "a.png")
    picture = (tmp_path / "a.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", picture[16:24])
    show(answer("SELECT n, n FROM range(40) t(n)"), "png", tmp_path / "b.png")
    taller = struct.unpack(">II", (tmp_path / "b.png").read_bytes()[16:24])
    assert taller[0] == width
    assert taller[1] > 2 * height
    show(answer("SELECT 1 AS n WHERE false"), "png", tmp_path / "none.png")
    assert (tmp_path / "none.png").stat().st_size > 100


def test_a_picture_needs_a_file_numbers_and_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="PNG goes to a file"):
        show(answer(ROWS), "png", None)
    with pytest.raises(BadInput, match="bars are of numbers"):
        show(answer("SELECT 'a' AS name"), "svg", tmp_path / "a.svg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BadInput, match=r"pip install 'dressage\[charts\]'") as missing:
        show(answer(ROWS), "png", tmp_path / "a.png")
    assert missing.value.code == "EXTRA_MISSING"
