"""Tables: what their columns are, x and back, and the scripts from CSV to scores."""

import io
import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from running import REPOSITORY, assert_one_line, read_json, refusal, run_script

import iwae_tf
from iwae_tf import datasets
from iwae_tf.config import build_model, override
from iwae_tf.config.files import read_config
from iwae_tf.datasets import table_files, tables
from iwae_tf.errors import InvalidInputError
from iwae_tf.io.layout import beside_export
from iwae_tf.runs import workdir
from iwae_tf.runs.workdir import Workdir
from iwae_tf.schema import Column, Schema
from iwae_tf.serving import shards
from iwae_tf.serving.imputed import imputer
from iwae_tf.serving.rows import read_rows

pytestmark = pytest.mark.usefixtures("loaded_once")
ROWS, CONFIG = 60, f"--config={REPOSITORY}/configs/tabular.py"
KINDS = {"income": "lognormal", "visits": "poisson", "id": "drop"}
SCHEMA = ",".join(f"{name}={kind}" for name, kind in KINDS.items())
QUICK = {"eval_num_samples": 30, "jit_compile": "false", "batch_size": 20}
QUICK |= {"hidden_dims": "[[8]]", "latent_dims": "[2]"}


def train(workdir, **values):
    """Runs the script on some values of its config; the exit code."""
    flags = (f"--config.{name}={value}" for name, value in values.items())
    return run_script("train", CONFIG, f"--workdir={workdir}", *flags)


def frame(seed=0, holes=True):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "id": [f"person {i}" for i in range(ROWS)],
            "age": rng.normal(50, 10, ROWS),
            "income": np.exp(rng.normal(10, 0.5, ROWS)),
            "town": rng.choice(["Ulm", "Bonn", "Aachen"], ROWS),
            "smokes": rng.uniform(size=ROWS) < 0.3,
            "visits": rng.poisson(2.0, ROWS),
        }
    )
    hidden = rng.uniform(size=table.shape) < 0.2
    return table.mask(hidden & (table.columns != "id")) if holes else table


@pytest.mark.parametrize("suffix", ["csv", "parquet", "frame"])
def test_columns_are_recognised_and_their_statistics_are_those_of_the_rows(
    tmp_path, suffix
):
    table, path = frame(), tmp_path / f"table.{suffix}"
    if suffix == "frame":
        path = table
    else:
        {"csv": table.to_csv, "parquet": table.to_parquet}[suffix](path, index=False)
    rows = np.arange(0, ROWS, 2)
    schema = tables.infer_schema(path, KINDS, rows=rows)
    found = {column.name: column for column in schema.columns}
    kinds = {name: column.kind for name, column in found.items()}
    assert kinds == {
        **{"age": "normal", "income": "lognormal", "town": "categorical"},
        **{"smokes": "bernoulli", "visits": "poisson"},
    }
    assert found["town"].categories == ("Aachen", "Bonn", "Ulm")
    training = table.iloc[rows]
    for name, values in {
        "age": training.age.astype(float),
        "income": np.log(training.income.astype(float)),
        "smokes": training.smokes.astype(float),
        "visits": training.visits.astype(float),
    }.items():
        np.testing.assert_allclose(found[name].loc, values.mean(), rtol=1e-6)
        np.testing.assert_allclose(found[name].scale, values.std(ddof=0), rtol=1e-6)
    x = tables.encode(path, schema)
    assert x.dtype == np.float32 and x.shape == (ROWS, 5)
    np.testing.assert_array_equal(np.isnan(x), table.drop(columns="id").isna())
    codes = table.town.map({"Aachen": 0, "Bonn": 1, "Ulm": 2})
    np.testing.assert_array_equal(x[:, 2], codes.astype("float32"))
    back = tables.decode(x, schema).to_pandas()
    assert [*back.town.fillna("")] == [*table.town.fillna("")]
    np.testing.assert_allclose(back.age, table.age.astype(float), rtol=1e-6)
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


def test_arrays_are_tables_without_names():
    x = np.random.default_rng(0).normal(size=(20, 3))
    x[:, 1] = x[:, 1] > 0
    schema = tables.infer_schema(x)
    assert schema.names == ["column_0", "column_1", "column_2"]
    kinds = [column.kind for column in schema.columns]
    assert kinds == ["normal", "bernoulli", "normal"]
    np.testing.assert_array_equal(tables.encode(x, schema), x.astype("float32"))


def test_a_category_of_an_array_is_its_number_and_nan_is_none():
    x = np.array([[5.0, 0.1], [10.0, 0.3], [np.nan, 0.2], [7.0, np.nan]])
    for name, data in ("column_0", x), ("a", {"a": x[:, 0], "b": x[:, 1]}):
        schema = tables.infer_schema(data, {name: "categorical"})
        assert schema.columns[0].categories == ("5", "7", "10")
        codes = tables.encode(data, schema)
        np.testing.assert_array_equal(codes[:, 0], [0, 2, np.nan, 1])
        assert tables.is_of_array(schema) == (name == "column_0")
    schema = tables.infer_schema(x, {"column_0": "categorical"})
    back = tables.decode_array(tables.encode(x, schema), schema)
    np.testing.assert_allclose(back, x, rtol=1e-6)
    truths = tables.infer_schema(x > 6, {"column_0": "categorical", "column_1": "drop"})
    assert truths.columns[0].categories == ("0", "1")


def test_the_kinds_are_told_in_one_line():
    columns = [Column(f"n{i}", "normal") for i in range(12)]
    columns[1:1] = [Column("t", "categorical", categories=("a", "b", "c"))]
    label = Column("y", "categorical", categories=("0", "1"))
    assert Schema(tuple(columns), label).describe() == (
        "13 columns: 12 normal (n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, ...), "
        "1 categorical (t of 3); label y of 2"
    )


def test_codes_that_are_numbers_sort_as_numbers():
    schema = tables.infer_schema({"a": [10, 9, 9, None]}, {"a": "categorical"})
    assert schema.columns[0].categories == ("9", "10")
    np.testing.assert_array_equal(
        tables.encode({"a": [9.0, 10.0, None]}, schema)[:, 0], [0, 1, np.nan]
    )


def test_a_column_of_few_values_gets_a_warning():
    few = np.tile([1.0, 2.0, 3.0], 5)
    with pytest.warns(UserWarning, match="column a has only 3 distinct values"):
        tables.infer_schema({"a": few})


@pytest.mark.parametrize("last", ["unknown", "1,5", "person 9"])
def test_a_column_of_as_many_categories_as_cells_gets_a_warning(tmp_path, last):
    cells = [*map(str, range(20)), f'"{last}"']
    match = f"column c has 21 categories in 21 cells, one is '{last}'"
    path = write_cells(tmp_path / "t.csv", cells)
    with pytest.warns(UserWarning, match=match):
        tables.infer_schema(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables.infer_schema(path, {"c": "categorical"})


def test_words_that_make_numbers_categories_get_a_warning(tmp_path):
    cells = [*map(str, range(30)), "unknown"] * 3
    path = write_cells(tmp_path / "t.csv", cells)
    match = "column c is categorical because of unknown; its other cells are numbers"
    with pytest.warns(UserWarning, match=match):
        tables.infer_schema(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables.infer_schema(path, {"c": "categorical"})
        tables.infer_schema(write_cells(path, ["1", "2", "3", "x"] * 9))


AGES = {"age": [1.0, 2.0, 4.0]}
SMALL = Schema(
    (Column("age", "poisson", 2.0), Column("t", "categorical", 0, 1, ("x", "y")))
)


@pytest.mark.parametrize(
    "data, kinds, words",
    [
        (
            {**AGES, "one": [1.0] * 3, "empty": [None] * 3},
            {},
            "one value, or none, in one, empty",
        ),
        ({"a": [1e8, 1e8 + 1, 1e8]}, {}, "one value, or none, in a"),
        ({"a": ["x", "x", None]}, {}, "one value, or none, in a"),
        ({"a": pa.array([], "double")}, {}, "`data` must have at least one row"),
        (AGES, {"ages": "normal"}, "`column` must be one of age"),
        (AGES, {"age": "gamma"}, "`kind of column age` must be one of normal, student"),
        (AGES, {"age": "drop"}, "must leave a column"),
        (AGES, {"age": "bernoulli"}, "`age` must be 0 or 1 where it is bernoulli"),
        ({"a": [1.5, 2.0]}, {"a": "poisson"}, "`a` must be a count"),
        ({"a": [0.0, 2.0]}, {"a": "lognormal"}, "`a` must be positive"),
        ({"a": [np.inf, 2.0]}, {}, "`a` must be finite"),
        ({"a": ["x", "y"]}, {"a": "normal"}, "`a` must be a column of numbers"),
        (
            {"a": ["1", "1.5", "12a", None]},
            {"a": "normal"},
            "string, one cell is '12a'",
        ),
        ({"a": pd.to_datetime(["2020", "2021"])}, {}, "schema='a=drop'"),
        ({"a": [*map(str, range(1000)), "-"]}, {}, "at most 1000 categories"),
        ({"a": [*map(str, range(1000)), "-"]}, {}, "Received: 1001, one is '-'"),
        (3, {}, "`data` must be a table"),
        (np.zeros(3), {}, "`data` must be numbers [rows, columns]"),
        (np.zeros([3, 2], np.longdouble), {}, "`data` must be a table"),
        ("no.csv", {}, "Received: no.csv, which does not exist"),
    ],
)
def test_what_is_no_table_of_such_columns(data, kinds, words):
    assert words in refusal(tables.infer_schema, data, kinds)


def write_cells(path, cells):
    path.write_text("v,c\n" + "".join(f"{i * 0.37},{c}\n" for i, c in enumerate(cells)))
    return path


@pytest.mark.parametrize(
    "training, kinds, new, codes",
    [  # words beside the codes: the column was text
        (["01", "1", "A"], {}, ["01", "1", "01", ""], [0, 1, 0, np.nan]),
        (["01234", "99999", "n-a"], {}, ["01234", "99999"], [0, 1]),
        (["True", "False", "maybe"], {}, ["True", "False"], [1, 0]),
        (["10:30", "11:30", "late"], {}, ["11:30", "10:30", "NA"], [1, 0, np.nan]),
        (["1.50", "2.50", "x"], {}, ["2.50", "1.50", "None"], [1, 0, np.nan]),
        # no words in training either
        (["01", "1", "2"], {"c": "categorical"}, ["1", "01", "2"], [1, 0, 2]),
        (["1.0", "2.0"], {"c": "categorical"}, ["2", "1", "1.00"], [1, 0, 0]),
        (["0x1F", "0x20"], {"c": "categorical"}, ["0x20", "0x1F"], [1, 0]),
    ],
)
@pytest.mark.filterwarnings("ignore:column v has only:UserWarning")
@pytest.mark.filterwarnings("ignore:column c has the categories:UserWarning")
def test_a_category_does_not_depend_on_the_other_rows(
    tmp_path, training, kinds, new, codes
):
    schema = tables.infer_schema(write_cells(tmp_path / "a.csv", training * 6), kinds)
    path = write_cells(tmp_path / "b.csv", new)
    np.testing.assert_array_equal(tables.encode(path, schema)[:, 1], codes)
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema.to_json()))
    np.testing.assert_array_equal(read_rows(path, schema=file).x[:, 1], codes)
    read = shards.reader(".csv", file, lambda path: io.BytesIO(path.read_bytes()))
    count, x = read(path, 1, 1)
    assert count == len(new)
    np.testing.assert_array_equal(x[:, 1], codes[1:2])
    as_label = Schema(schema.columns[:1], schema.columns[1])
    if not np.isnan(codes).any():
        np.testing.assert_array_equal(tables.encode_labels(path, as_label), codes)


def test_a_blank_before_a_name_in_the_header_need_not_be_typed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a, b, c\n" + "".join(f"{i},0{i % 2},{i % 3}\n" for i in range(9)))
    schema = tables.infer_schema(
        path, {"a": "poisson", "b": "categorical", "c": "drop"}
    )
    assert schema.names == ["a", " b"]
    assert schema.columns[1].categories == ("00", "01")


@pytest.mark.parametrize(
    "categories, cells, codes",
    [  # what the types of pyarrow made of the cells before they stayed texts
        (["1234", "99999"], ["01234", "99999", "01234.0"], [0, 1, 0]),
        (["1.5", "2.5"], ["1.50", " 2.5", "25e-1"], [0, 1, 1]),
        (["false", "true"], ["True", "FALSE", "", "0"], [1, 0, np.nan, 0]),
        (["10:30:00", "11:30:00"], ["11:30", "10:30"], [1, 0]),
        (["2020-01-01 00:00:00", "2020-01-02 00:00:00"], ["2020-01-02 00:00"], [1]),
        (["31", "32"], ["0x20"], [1]),
    ],
)
def test_schemas_whose_categories_were_numbers_go_on(
    tmp_path, categories, cells, codes
):
    column = Column("c", "categorical", categories=tuple(categories))
    path = write_cells(tmp_path / "a.csv", cells)
    x = tables.encode(path, Schema((column,)))
    np.testing.assert_array_equal(x[:, 0], codes)


@pytest.mark.parametrize("cell", ["1.0", "001", "a\tb", "2"])
def test_a_text_that_could_be_two_categories_is_none(tmp_path, cell):
    column = Column("c", "categorical", categories=("01", "1"))
    path = write_cells(tmp_path / "a.csv", ["01", cell])
    words = refusal(tables.encode, path, Schema((column,)))
    assert f"2 categories, 01, 1. Received: {cell!r}" in words


def test_the_kinds_of_a_config_are_known_when_its_table_is_read(tmp_path):
    path = write_cells(tmp_path / "a.csv", ["01", "1"] * 10)
    with pytest.warns(UserWarning, match="column c has the categories 01 and 1, which"):
        schema = datasets.table_schema(path, "c=categorical")
    assert schema.columns[1].categories == ("01", "1")
    with pytest.warns(UserWarning, match="same value"):
        found = [
            datasets.load_arrays("table", split=s, data_dir=path, schema="c=label")
            for s in datasets.SPLITS
        ]
    labels = np.concatenate([split.labels for split in found])
    np.testing.assert_array_equal(np.bincount(labels), [10, 10])


def test_kinds_of_columns_with_odd_names():
    odd = {"size (cm, in)": [1.0, 2.0, 4.0], "a=b": [1, 2, 3], "c": ["x", "y", "x"]}
    text = "size (cm, in)=lognormal, a=b=poisson,c=drop"
    schema = tables.read_schema(text, odd, slice(None))
    assert [(c.name, c.kind) for c in schema.columns] == [
        ("size (cm, in)", "lognormal"),
        ("a=b", "poisson"),
    ]
    for text in ("c=drop,c=label", "c=drop,a", "c"):
        words = refusal(tables.read_schema, text, odd, slice(None))
        assert "`schema` must be column=kind,..., each column once" in words


def test_integers_do_not_depend_on_the_other_rows_either():
    column = Column("a", "normal")
    x = tables.encode({"a": [2**53 + 1, 5]}, Schema((column,)))
    np.testing.assert_array_equal(x[:, 0], np.float32([2**53, 5]))


def test_names_that_are_there_twice(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,a,b,c,c\n1,2,3,4,4\n2,3,4,5,5\n5,1,3,6,6\n")
    assert "Received: 2 columns a" in refusal(tables.infer_schema, path, {"c": "drop"})
    schema = tables.infer_schema(path, {"a": "drop", "c": "drop"})
    assert schema.names == ["b"] and tables.encode(path, schema).shape == (3, 1)
    of_a = Schema((Column("a", "normal"),), Column("c", "categorical", 0, 1, "45"))
    assert "Received: 2 columns a" in refusal(tables.encode, path, of_a)
    assert "Received: 2 columns c" in refusal(tables.encode_labels, path, of_a)
    parquet.write_table(table_files.read_table(path), tmp_path / "t.parquet")
    words = refusal(tables.infer_schema, tmp_path / "t.parquet")
    assert "must be a readable table" in words and "Multiple matches" in words
    twice = pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"])
    assert "Duplicate column names" in refusal(tables.infer_schema, twice)


def test_words_that_are_missing_values_are_counted(tmp_path):
    cells = ["None", "Some", "Much", "NA", "None", "?", ""]
    path = write_cells(tmp_path / "t.csv", cells)
    with pytest.warns(UserWarning, match="column c has 2 None, 1 NA: taken as missing"):
        schema = tables.infer_schema(path)
    assert schema.columns[1].categories == ("Much", "Some")
    x = tables.encode(path, schema)[:, 1]
    np.testing.assert_array_equal(x, [np.nan, 1, 0, *[np.nan] * 4])


def test_blanks_around_a_missing_value_and_empty_lines_of_one_column(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a, b, c\n1, ?, x\n n/a, 2, ?\n , NULL , NA \n4,3, y\n,<NA>,x\n")
    with pytest.warns(UserWarning, match="column  c has 1 NA: taken as missing"):
        schema = tables.infer_schema(path)
    assert [c.kind for c in schema.columns] == ["normal"] * 2 + ["categorical"]
    holes = np.isnan(tables.encode(path, schema)).astype(int)
    assert holes.tolist() == [[0, 1, 0], [1, 0, 1], [1, 1, 1], [0, 0, 0], [1, 1, 0]]
    for word, values in ("2.5", [1.0, None, 2.5, None]), ("b", ["1", None, "b", None]):
        path.write_text(f"a\n1\n\n{word}\n\n")
        opened = io.BytesIO(path.read_bytes())
        for table in (
            table_files.read_table(path),
            table_files.read_csv(opened, path, "input"),
        ):
            assert table.column("a").to_pylist() == values


def test_a_category_that_a_csv_file_cannot_have_is_refused_there(tmp_path):
    table = pa.table({"c": ["NA", "DE", None], "v": [1.0, 2.0, 4.0]})
    schema = tables.infer_schema(table)
    parquet.write_table(table, tmp_path / "t.parquet")
    x = tables.encode(tmp_path / "t.parquet", schema)
    np.testing.assert_array_equal(x[:, 0], [1, 0, np.nan])
    (tmp_path / "t.csv").write_text("c,v\nDE,1\n,2\n")
    x = tables.encode(tmp_path / "t.csv", schema)
    np.testing.assert_array_equal(x[:, 0], [0, np.nan])
    (tmp_path / "t.csv").write_text("c,v\nDE,1\nNA,2\n")
    words = refusal(tables.encode, tmp_path / "t.csv", schema)
    assert "`c` must have no cell NA in a CSV file" in words


HOLED = """id,f,count,flag,holed,code,big
16777217,0.1257302210933933,3,False,True,01,9007199254740993
16777219,NA,,True,,,
16777221,1.50,16777217,False,False,1,9007199254740995
"""


def test_only_empty_cells_are_filled(tmp_path):
    (tmp_path / "t.csv").write_text(HOLED)
    columns = [
        *(Column(name, "normal") for name in ("id", "f", "count", "flag", "holed")),
        Column("code", "categorical", categories=("01", "1")),
        Column("big", "normal"),
    ]
    schema, path = Schema(tuple(columns)), tmp_path / "t.csv"
    x = tables.encode(path, schema)
    x[1] = [0.0, 0.25, 2.5, 0.0, 0.1, 1.0, 7.5]
    csv.write_csv(tables.fill(path, x, schema), tmp_path / "f.csv")
    lines = (tmp_path / "f.csv").read_text().replace('"', "").splitlines()
    assert lines == [
        "id,f,count,flag,holed,code,big",
        "16777217,0.1257302210933933,3,false,1,01,9007199254740993",
        "16777219,0.25,2.5,true,0.1,1,7.5",
        "16777221,1.5,16777217,false,0,1,9007199254740995",
    ]
    floats = pd.DataFrame({"a": np.float32([0.1, np.nan]), "b": [None, None]})
    both = Schema((Column("a", "normal"), Column("b", "normal")))
    found = tables.fill(floats, np.float32([[0.1, 0.5], [0.2, 0.5]]), both).to_pandas()
    assert found.a.dtype == np.float32 and [*found.b] == [0.5, 0.5]
    np.testing.assert_array_equal(found.a, np.float32([0.1, 0.2]))
    assert "`x` must be the rows" in refusal(tables.fill, floats, x, both)


@pytest.mark.parametrize(
    "data, words",
    [
        ({"age": [1], " t": ["x"]}, "Received: no 't' among 'age', ' t'"),
        (
            {"age": [1], "t": ["z"]},
            "`t` must be one of its 2 categories, x, y. Received: 'z'",
        ),
        ({"age": [-1], "t": ["x"]}, "`age` must be a count where it is poisson"),
        (
            {"age": ["1", "old"], "t": ["x", "y"]},
            "`age` must be a column of numbers, as the model's schema has it. "
            "Received: string, one cell is 'old'",
        ),
    ],
)
def test_what_does_not_go_with_a_schema(data, words):
    assert words in refusal(tables.encode, data, SMALL)


def test_a_file_whose_first_line_is_no_names(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("1,2\n3,4\n")
    assert "names in its first line" in refusal(table_files.read_table, path)
    path.write_text("5.1,3.5,setosa\n4.9,3.0,virginica\n")
    with pytest.warns(UserWarning, match="has the numbers 5.1, 3.5: if it is a row"):
        table_files.read_table(path)
    path.write_bytes(b"a,b\n1\n2,3,4\n")
    assert "must be a readable table" in refusal(table_files.read_table, path)
    for line in ("sep=,", '\ufeff"sep=;"', "sep=\t"):
        path.write_text(f"{line}\na{line[-1]}b\n1{line[-1]}2\n")
        words = refusal(table_files.read_table, path)
        assert "must have the columns' names in its first line: delete that" in words
    for separator in (";", "\t", "|"):
        for point in (".", ","):
            path.write_text(separator.join(["a", "b\n1" + point + "5", "2\n"]))
            words = refusal(table_files.read_table, path)
            assert "must have commas between its columns, and points in" in words
            assert f"Received: {path}, whose first line is" in words
    path.write_text('"a;b;c",d\n1,2\n')
    assert table_files.read_table(path).column_names == ["a;b;c", "d"]


@pytest.mark.parametrize(
    "text, encoding, words",
    [
        ("a,größe\n1,2\n", "latin-1", "must be a readable table"),
        (
            *("a,b\n1,größe\n2,x\n", "latin-1"),
            "Received: binary (in a CSV file: not UTF-8)",
        ),
        ("a,b\n1,2\n", "utf-16", "must be in UTF-8: pandas.read_csv(..., encoding="),
    ],
)
def test_a_file_in_another_encoding(tmp_path, text, encoding, words):
    (tmp_path / "t.csv").write_text(text, encoding=encoding)
    assert words in refusal(tables.infer_schema, tmp_path / "t.csv")


def test_a_large_file_has_cells_of_several_lines(tmp_path):
    table = pd.DataFrame({"a": np.arange(40_000), "b": ["x\n" * 20, "y"] * 20_000})
    table.to_csv(tmp_path / "t.csv", index=False)  # more than one block of pyarrow's
    found = table_files.read_table(tmp_path / "t.csv").to_pandas()
    assert found.equals(table.astype({"b": found.b.dtype}))


@pytest.mark.parametrize("name", [None, "row"])
def test_the_index_of_a_frame_is_no_column(tmp_path, name):
    table = frame(holes=False)
    table = table[table.age > 50].rename_axis(name)
    table.to_parquet(tmp_path / "t.parquet")
    for data in table, tmp_path / "t.parquet":
        names = tables.infer_schema(data, KINDS).names
        assert names == ["age", "income", "town", "smokes", "visits"]
    table.to_csv(tmp_path / "t.csv")
    names = tables.infer_schema(tmp_path / "t.csv", KINDS).names
    assert names == [*([name] if name else []), *table.columns[1:]]
    if name:
        assert tables.infer_schema(table, KINDS | {name: "normal"}).names[-1] == name


@pytest.mark.parametrize("suffix", ["parquet", "frame"])
def test_a_category_of_integers_is_categorical(tmp_path, suffix):
    data = pd.DataFrame({"code": pd.Categorical([10, 2, 2, 10, 3])})
    if suffix == "parquet":  # which has integers and, in its metadata, what they are
        data.to_parquet(tmp_path / "t.parquet")
        data = tmp_path / "t.parquet"
    schema = tables.infer_schema(data)
    assert schema.columns[0].categories == ("2", "3", "10")
    assert tables.encode(data, schema)[:, 0].tolist() == [2, 0, 0, 2, 1]


def test_splits_share_no_row_and_the_schema_is_that_of_the_training_rows(tmp_path):
    path = tmp_path / "t.csv"
    frame().to_csv(path, index=False)
    settings = {"data_dir": path, "schema": SCHEMA, "takes_missing": True}
    settings["in_unit_interval"] = False
    splits = [
        datasets.load_arrays("table", split=split, **settings).images
        for split in datasets.SPLITS
    ]
    assert [len(split) for split in splits] == [48, 6, 6]
    x = tables.encode(path, datasets.table_schema(path, SCHEMA))
    joined = np.concatenate(splits)
    order = [np.lexsort(np.nan_to_num(rows, nan=-1).T) for rows in (joined, x)]
    np.testing.assert_array_equal(joined[order[0]], x[order[1]])
    age = datasets.table_schema(path, SCHEMA).columns[0]
    np.testing.assert_allclose(age.loc, np.nanmean(splits[0][:, 0]), rtol=1e-5)


@pytest.mark.slow
def test_a_column_of_labels_makes_a_conditional_model(tmp_path, capsys):
    path = tmp_path / "t.csv"
    table = frame().assign(kind=["new", "old", "9"] * (ROWS // 3))
    table.to_csv(path, index=False)
    schema = f"{SCHEMA},kind=label"
    arguments = {"data_dir": path, "schema": schema, "takes_missing": True}
    found = datasets.load_arrays("table", split="test", **arguments)
    rows = np.flatnonzero(np.array(datasets.sources.splits_of_rows(ROWS)) == "test")
    codes = table.kind.map({"9": 0, "new": 1, "old": 2}).to_numpy()
    np.testing.assert_array_equal(found.labels, codes[rows])
    assert found.images.shape == (6, 5)
    data = {"data_dir": path, "schema": schema, "conditional": "true"}
    assert train(tmp_path / "run", **QUICK, **data, epochs=1) == 0
    given = f"--saved_model={tmp_path}/run/saved_model", "--num_samples=30"
    score = ("score", *given, f"--input={path}", f"--output={tmp_path}/s.csv")
    assert run_script(*score) == 0
    np.save(tmp_path / "y.npy", codes)
    again = (*score[:-1], f"--output={tmp_path}/a.csv", f"--labels={tmp_path}/y.npy")
    assert run_script(*again) == 0
    scores, expected = (pd.read_csv(tmp_path / f"{name}.csv") for name in "sa")
    pd.testing.assert_frame_equal(scores, expected)
    table.assign(kind=[None, *table.kind[1:]]).to_csv(path, index=False)
    capsys.readouterr()
    code = run_script(*score[:-1], f"--output={tmp_path}/b.csv")
    assert_one_line(code, capsys, "`kind` must have a label in every row")
    table.drop(columns="kind").to_csv(path, index=False)
    code = run_script(*score[:-1], f"--output={tmp_path}/b.csv")
    assert_one_line(code, capsys, "have the columns of the schema", "no 'kind' among")


def test_a_table_is_a_stream_as_well(tmp_path):
    path = tmp_path / "t.csv"
    frame().to_csv(path, index=False)
    arguments = {"data_dir": path, "schema": SCHEMA, "takes_missing": True}
    batches = iwae_tf.load_dataset("table", batch_size=20, **arguments)
    x = np.concatenate([*batches.as_numpy_iterator()])
    expected = datasets.load_arrays("table", split="train", **arguments).images
    np.testing.assert_array_equal(x, expected)


def test_npz_tables_bring_their_own_test_rows(tmp_path):
    path, rng = tmp_path / "t.npz", np.random.default_rng(0)
    arrays = {
        "x_train": 50 * rng.normal(size=(20, 2)),
        "x_test": rng.normal(size=(7, 2)),
    }
    np.savez(path, **arrays)
    found = datasets.load_arrays(
        "table", split="test", data_dir=path, in_unit_interval=False
    )
    np.testing.assert_array_equal(found.images, arrays["x_test"].astype("float32"))


# The scripts -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a table with holes: its folder has table.csv and run."""
    folder = tmp_path_factory.mktemp("table")
    frame().to_csv(folder / "table.csv", index=False)
    data = {"data_dir": folder / "table.csv", "schema": SCHEMA}
    assert train(folder / "run", **QUICK, **data, epochs=2) == 0
    return folder


def test_from_a_table_to_scores(trained, tmp_path, capsys):
    results = read_json(trained / "run/results.json")
    for model in (
        f"--workdir={trained / 'run'}",
        f"--saved_model={trained}/run/saved_model",
    ):
        output = tmp_path / f"{len(model)}.json"
        flags = (model, f"--output={output}", "--num_samples=30")
        assert run_script("evaluate", *flags) == 0
        told = capsys.readouterr().out
        assert "for these rows" in told and "images" not in told
        assert read_json(output)["nll"] == pytest.approx(results["nll"], abs=1e-4)
    assert (
        run_script("export", f"--workdir={trained}/run", f"--output={tmp_path}/e") == 0
    )
    exported = read_json(tmp_path / "e/schema.json")
    assert exported == read_json(trained / "run/schema.json")
    assert exported["columns"][2]["categories"] == ["Aachen", "Bonn", "Ulm"]
    assert read_json(tmp_path / "e/config.json")["schema"] == "schema.json"


def test_a_finished_run_is_not_one_of_other_kinds(trained, tmp_path):
    """`schema` may be a file, whose name the config keeps."""
    (tmp_path / "kinds.json").write_text(json.dumps(KINDS))
    run = Workdir(shutil.copytree(trained / "run", tmp_path / "run"))
    config = json.loads(run.config.read_text())
    config |= {"schema": str(tmp_path / "kinds.json")}
    run.config.write_text(json.dumps(config))
    config = read_config(run.config)
    run.check(config)
    (tmp_path / "kinds.json").write_text(json.dumps(KINDS | {"visits": "normal"}))
    assert "the kinds of columns have changed" in refusal(run.check, config)


def test_each_version_keeps_its_own_codes(trained, tmp_path, monkeypatch):
    """The next version may be of a model whose categories have other codes."""
    versions, run = tmp_path / "versions", Workdir(trained / "run")

    def export_saved_model(model, path, num_samples):
        version = path / str(len([*path.glob("[0-9]")]) + 1)
        not_own = shutil.ignore_patterns("assets.extra")
        return shutil.copytree(trained / "run/saved_model/1", version, ignore=not_own)

    monkeypatch.setattr(workdir, "export_saved_model", export_saved_model)
    workdir.export(run.load_model(), run.read_config(), versions)
    (tmp_path / "x.csv").write_text("age,income,town,smokes,visits\n1,1,Ulm,1,1\n")
    frame().replace({"town": {"Bonn": "Zell"}}).to_csv(tmp_path / "new.csv")
    data = {"data_dir": str(tmp_path / "new.csv"), "schema": SCHEMA + ",=drop"}
    config = override(run.read_config(), **data)
    workdir.export(build_model(config), config, versions)
    for name, code in (("versions/1", 2), ("versions", 1), ("versions/2", 1)):
        found = beside_export(tmp_path / name, "schema.json")
        assert read_rows(tmp_path / "x.csv", schema=found).x[0, 2] == code
    assert workdir.load_exported(versions / "1")[1].data_dir != data["data_dir"]
    export_saved_model(None, versions, 1)  # by hand: of what, only its maker knows
    assert beside_export(versions, "schema.json") is None


def test_a_finished_run_says_that_its_schema_is_damaged(trained, tmp_path):
    run = Workdir(shutil.copytree(trained / "run", tmp_path / "run"))
    config = read_config(run.config)
    for text, words in (("[", "readable JSON"), ("{}", "be the schema.json of a run")):
        (tmp_path / "run/schema.json").write_text(text)
        for read in (run.read_config, lambda: run.check(config)):
            assert words in refusal(read)


def test_an_export_would_replace_the_files_of_something_else(trained, tmp_path, capsys):
    rule = "`output` must be a new folder or one of an export"
    run = Workdir(trained / "run")
    card, model = tmp_path / "MODEL_CARD.md", tmp_path / "run/model.keras"
    model.parent.mkdir()
    for file in (card, model):
        file.write_text("mine")
    for file in (run.config, card, model):
        path, name = file.parent, file.name
        before = (path / name).read_bytes()
        code = run_script("export", f"--workdir={run.path}", f"--output={path}")
        assert_one_line(code, capsys, rule.replace("output", "--output"), name)
        assert rule in refusal(workdir.export, None, run.read_config(), path)
        assert (path / name).read_bytes() == before


def test_a_diagnosis_takes_rows_with_holes(trained, tmp_path):
    code = run_script(
        "diagnose",
        f"--workdir={trained}/run",
        f"--output={tmp_path}/report",
        *("--quick", "--num_images=6", "--num_samples=30", "--parts=proposal"),
    )
    assert code == 0
    found = read_json(tmp_path / "report/proposal.json")
    assert "reconstruction" in json.dumps(found) and "NaN" not in json.dumps(found)


def test_a_schema_file_says_what_the_columns_are(trained, tmp_path):
    (tmp_path / "kinds.json").write_text(json.dumps(KINDS))
    whole = datasets.table_schema(trained / "table.csv", f"{trained}/run/schema.json")
    kinds = datasets.table_schema(trained / "table.csv", f"{tmp_path}/kinds.json")
    assert whole == kinds
    x, file = frame(), tmp_path / "kinds.json"
    x.to_csv(tmp_path / "new.csv", index=False)
    for read in (
        lambda: read_rows(tmp_path / "new.csv", schema=file),
        lambda: shards.reader(".csv", file, open),
    ):
        assert "kinds have not the codes of the training" in refusal(read)


def test_scores_need_the_codes(trained, tmp_path, capsys):
    model = shutil.copytree(trained / "run/saved_model", tmp_path / "model")
    frame(holes=False).to_csv(tmp_path / "new.csv", index=False)
    flags = (
        f"--saved_model={model}",
        f"--input={tmp_path}/new.csv",
        "--num_samples=20",
    )
    assert run_script("score", *flags, f"--output={tmp_path}/a.csv") == 0
    scores = pd.read_csv(tmp_path / "a.csv")
    assert len(scores) == ROWS and np.isfinite(scores.log_likelihood).all()
    changed = frame(holes=False).replace({"town": {"Ulm": "Berlin"}})
    changed.to_csv(tmp_path / "new.csv", index=False)
    capsys.readouterr()
    code = run_script("score", *flags, f"--output={tmp_path}/b.csv")
    assert_one_line(
        code, capsys, "`town` must be one of", "Aachen, Bonn, Ulm", "'Berlin'"
    )
    (model / "schema.json").unlink()
    code = run_script("score", *flags, f"--output={tmp_path}/b.csv")
    assert_one_line(code, capsys, "`schema` must be given for a table")


def test_rows_with_holes_are_scored_and_filled_in(trained, tmp_path, capsys):
    model = trained / "run/saved_model"
    holed = frame(seed=5)
    holed.to_csv(tmp_path / "new.csv", index=False)
    flags = (f"--input={tmp_path}/new.csv", "--num_samples=30", "--proposal=refined")
    filled, scores = tmp_path / "filled.csv", tmp_path / "scores.csv"
    saved = (f"--saved_model={model}", f"--output={scores}", f"--imputed={filled}")
    assert run_script("score", *flags, *saved) == 0
    assert np.isfinite(pd.read_csv(scores).log_likelihood).all()
    table = pd.read_csv(filled)
    kept = holed.drop(columns="id")
    assert [*table.columns] == [*kept.columns] and not table.isna().any().any()
    for name in kept.columns:
        seen = kept[name].notna()
        if name == "town":
            assert (table.town[seen] == kept.town[seen]).all()
            assert {*table.town} <= {"Ulm", "Bonn", "Aachen"}
        else:
            expected = kept[name][seen].astype(float)
            np.testing.assert_allclose(table[name][seen], expected, rtol=1e-15)
    capsys.readouterr()
    again = (f"--saved_model={model}", f"--output={tmp_path}/b.csv")
    code = run_script("score", *flags, *again, f"--imputed={filled}")
    assert_one_line(code, capsys, "`imputed` must be a new file", "filled.csv")
    before = filled.read_bytes()
    (tmp_path / "b.csv.partial").write_text("of another job\n")  # nor of this one
    code = run_script("score", *flags, *again, f"--imputed={filled}")
    assert_one_line(code, capsys, "`imputed` must be a new file", "filled.csv")
    assert filled.read_bytes() == before
    more = [*again, f"--imputed={tmp_path}/more.csv"]
    assert_one_line(run_script("score", *flags, *more), capsys, "of this job")
    assert not (tmp_path / "more.csv").exists()
    x = tables.encode(holed, Schema.from_json(read_json(model / "schema.json")))
    for bad, labels, words in (
        (x[:0], None, "at least one row"),
        (x[:, :2], None, r"event \(5,\)"),
        (np.where(np.isnan(x), np.inf, x), None, "`x` must be finite"),
        (x, np.zeros(len(x), int), "`labels` must be left out"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            imputer(tmp_path / "bad.npy", bad, model, labels=labels)()
    assert not (tmp_path / "bad.npy").exists()
    x = x.astype(np.float64) + np.where(x == x.round(), 0.0, 1e-12)
    for name in ("x.npy", "x.csv"):
        imputer(tmp_path / name, x, model, model / "schema.json", num_samples=5)()
    found = np.load(tmp_path / "x.npy")
    np.testing.assert_array_equal(found[~np.isnan(x)], x[~np.isnan(x)])
    grey = x / 2  # as if x were it, binarized
    imputer(tmp_path / "x.npy", x, model, observed=grey, num_samples=5)()
    expected = np.where(np.isnan(x), found, grey)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)
    values = (model / "schema.json").read_text()
    for old, new in zip(["Aachen", "Bonn", "Ulm"], ["5", "-1.5", "20"]):
        values = values.replace(old, new)
    for place, name in enumerate(kept.columns):
        values = values.replace(f'"{name}"', f'"column_{place}"')
    (tmp_path / "schema.json").write_text(values)  # as if trained on an array
    path = tmp_path / "x.npy"
    imputer(path, x, model, tmp_path / "schema.json", num_samples=5)()
    codes = found[:, [*kept.columns].index("town")]
    town = np.load(path)[:, [*kept.columns].index("town")]
    np.testing.assert_array_equal(town, np.array([5, -1.5, 20])[codes.astype(int)])
    age = pd.read_csv(tmp_path / "x.csv").age
    np.testing.assert_array_equal(age[~np.isnan(x[:, 0])], x[~np.isnan(x[:, 0]), 0])
    saved = (f"--saved_model={model}", f"--output={tmp_path}/s.csv")
    capsys.readouterr()
    code = run_script("score", *flags, *saved, f"--imputed={tmp_path}/filled.txt")
    assert code == 2 and "`imputed` must be NAME.npy" in capsys.readouterr().err


def test_a_job_that_is_cut_off_leaves_neither_file(
    trained, tmp_path, monkeypatch, capsys
):
    """What is filled in comes last, after the last score and before its file."""
    filled = tmp_path / "filled.csv"

    def interrupt(*args):
        assert len(pd.read_csv(filled)) == ROWS
        raise KeyboardInterrupt

    flags = (f"--saved_model={trained}/run/saved_model", f"--input={trained}/table.csv")
    flags += (f"--output={tmp_path}/s.csv", f"--imputed={filled}", "--num_samples=5")
    with monkeypatch.context() as patched:
        patched.setattr("iwae_tf.serving.score_files.ScoreFile.finish", interrupt)
        assert run_script("score", *flags) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv.partial"]
    assert run_script("score", *flags) == 0
    assert len(pd.read_csv(filled)) == len(pd.read_csv(tmp_path / "s.csv")) == ROWS
    filled.unlink()
    capsys.readouterr()
    code = run_script("score", *flags)
    assert_one_line(code, capsys, "`output` must be a new file", "s.csv, which exists")


def test_an_endpoint_does_not_fill_in(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "x.npy", np.zeros([2, 28, 28, 1], np.float32))
    monkeypatch.chdir(REPOSITORY / "saved_models/mnist5k_iwae")  # is not taken for it
    flags = (f"--input={tmp_path}/x.npy", "--endpoint=http://localhost:1/v1/models/a")
    outputs = (f"--output={tmp_path}/s.csv", f"--imputed={tmp_path}/filled.npy")
    code = run_script("score", *flags, *outputs)
    assert_one_line(code, capsys, "`saved_model` must be given for `imputed`")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"likelihood": "normal"}, "`likelihood` must be mixed for the data set table"),
        ({"binarization": "fixed"}, "`binarization` must be none for mixed"),
        ({"missing": "refuse"}, "must be finite"),
        ({"conditional": "true"}, "`dataset` must have labels"),
        ({"schema": "income"}, "must be column=kind"),
        ({"schema": "none.json"}, "`schema` must be a readable JSON file"),
        ({"dataset": "npz"}, "`likelihood` must be mixed"),
    ],
)
def test_mistakes_of_configs(trained, tmp_path, capsys, changes, words):
    values = {"data_dir": trained / "table.csv", "schema": SCHEMA, **changes}
    assert_one_line(train(tmp_path / "r", **values), capsys, words)


def test_a_warning_of_a_script_is_one_line(tmp_path, capsys):
    table = frame().assign(age=np.arange(ROWS) % 3)
    table.to_csv(tmp_path / "t.csv", index=False)
    values = {"data_dir": tmp_path / "t.csv", "schema": SCHEMA, "missing": "refuse"}
    assert train(tmp_path / "r", **values) == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: column age has only 3 distinct values, so")
    assert error.startswith("error: ")
