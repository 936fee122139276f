"""What filter expressions mean, and the derived fields that make databases agree with it."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store_conformance import FILTERS, METADATA, random_filters, random_metadata

from m3connect.filters import (
    And,
    Filter,
    HasToken,
    Native,
    Not,
    NumberRange,
    Or,
    Predicate,
    field,
    matches,
    number_name,
    numbers,
    tokens,
)
from m3connect.splitting import is_exact, split_exact

quick = settings(deadline=None, derandomize=True, database=None, max_examples=300)


@pytest.mark.parametrize(
    ("condition", "metadata", "expected"),
    [
        (field("k") == "de", {"k": "de"}, True),
        (field("k") == "de", {"k": "DE"}, False),
        (field("k") == "de", {}, False),
        (field("k") == "de", {"k": None}, False),
        (field("k") == "de", {"k": ["de"]}, False),
        (field("k") == 1, {"k": 1.0}, True),
        (field("k") == 1.0, {"k": 1}, True),
        (field("k") == 1, {"k": True}, False),
        (field("k") == True, {"k": 1}, False),  # noqa: E712
        (field("k") == False, {"k": 0}, False),  # noqa: E712
        (field("k") == True, {"k": True}, True),  # noqa: E712
        (field("k") == "1", {"k": 1}, False),
        (field("k") == 0.0, {"k": -0.0}, True),
        (field("k") == 0.1, {"k": 0.1}, True),
        (field("k") == 0.1 + 0.2, {"k": 0.3}, False),
        (field("k") != "de", {"k": "de"}, False),
        (field("k") != "de", {}, True),
        (field("k") != 1, {"k": True}, True),
        (field("k").in_(["a", 2]), {"k": 2.0}, True),
        (field("k").in_([]), {"k": "a"}, False),
        (field("k").not_in(["a"]), {}, True),
        (field("k").not_in([]), {"k": "a"}, True),
        (field("k") < 2, {"k": 1}, True),
        (field("k") < 2, {"k": 2}, False),
        (field("k") <= 2, {"k": 2.0}, True),
        (field("k") > 2, {"k": 2}, False),
        (field("k") >= 2, {"k": 2}, True),
        (field("k") > 0, {"k": True}, False),
        (field("k") > 0, {"k": "5"}, False),
        (field("k") > 0, {"k": [5]}, False),
        (field("k") > 0, {}, False),
        (field("k") > 0, {"k": 2**53}, False),
        (field("k").between(1, 2), {"k": 2}, True),
        (field("k").between(1, 2), {"k": 2.01}, False),
        (field("k").contains("a"), {"k": ["a", "b"]}, True),
        (field("k").contains("a"), {"k": ("b", "a")}, True),
        (field("k").contains("a"), {"k": "a"}, False),
        (field("k").contains(1), {"k": [True, "1"]}, False),
        (field("k").contains(1), {"k": [1.0]}, True),
        (field("k").contains_any(["x", "b"]), {"k": ["a", "b"]}, True),
        (field("k").contains_any([]), {"k": ["a"]}, False),
        (field("k").contains_all(["a", "b"]), {"k": ["b", "c", "a"]}, True),
        (field("k").contains_all(["a", "b"]), {"k": ["a"]}, False),
        (field("k").contains_all([]), {"k": []}, True),
        (field("k").contains_all([]), {"k": "a"}, False),
        (field("k").contains_all([]), {}, False),
        (field("k").text_contains("b c"), {"k": "a b c"}, True),
        (field("k").text_contains("B"), {"k": "abc"}, False),
        (field("k").text_contains("B", case=False), {"k": "abc"}, True),
        (field("k").text_contains("ss", case=False), {"k": "Straße"}, True),
        (field("k").text_contains(""), {"k": ""}, True),
        (field("k").text_contains(""), {}, False),
        (field("k").text_contains("a"), {"k": ["a"]}, False),
        (field("k").is_empty(), {}, True),
        (field("k").is_empty(), {"k": None}, True),
        (field("k").is_empty(), {"k": []}, True),
        (field("k").is_empty(), {"k": ()}, True),
        (field("k").is_empty(), {"k": ""}, False),
        (field("k").is_empty(), {"k": 0}, False),
        (field("k").is_empty(), {"k": False}, False),
        (field("k").is_empty(), {"k": {}}, False),
        (field("k").is_empty(), {"k": [None]}, False),
        (field("k").is_empty(), {"k": 2**60}, False),
        (field("a.b") == 1, {"a": {"b": 1}}, False),
        (field("a.b") == 1, {"a.b": 1}, True),
    ],
)
def test_each_operator_has_its_meaning(condition: Filter, metadata: dict[str, Any], expected: bool) -> None:
    assert matches(condition, metadata) is expected
    assert matches(~condition, metadata) is not expected


def test_and_or_and_not_combine() -> None:
    condition = ((field("a") == 1) | (field("b") == 1)) & ~(field("c") == 1)
    assert matches(condition, {"b": 1})
    assert not matches(condition, {"b": 1, "c": 1})
    assert not matches(condition, {})
    assert matches(And(()), {})
    assert not matches(Or(()), {})


@quick
@given(random_filters(), random_filters(), st.integers(0, 10_000))
def test_de_morgan_and_double_negation_hold(a: Filter, b: Filter, seed: int) -> None:
    metadata = random_metadata(random.Random(seed))
    assert matches(~(a & b), metadata) == matches(~a | ~b, metadata)
    assert matches(~(a | b), metadata) == matches(~a & ~b, metadata)
    assert matches(~~a, metadata) == matches(a, metadata)
    assert matches(a, metadata) != matches(~a, metadata)
    assert matches(a & b, metadata) == (matches(a, metadata) and matches(b, metadata))
    assert matches(a | b, metadata) == (matches(a, metadata) or matches(b, metadata))


@quick
@given(random_filters(), st.integers(0, 10_000))
def test_tokens_and_numbers_decide_what_is_exact(condition: Filter, seed: int) -> None:
    """What a database does: it never sees the metadata, only the derived fields."""
    metadata = random_metadata(random.Random(seed))
    if is_exact(condition):
        assert decided(condition, tokens(metadata), numbers(metadata)) == matches(condition, metadata)


def decided(condition: Filter, known: list[str], ordered: dict[str, float]) -> bool:
    match condition:
        case HasToken(any_of):
            return any(token in known for token in any_of)
        case NumberRange(key, op, bound):
            value = ordered.get(number_name(key))
            order = {"<": float.__lt__, "<=": float.__le__, ">": float.__gt__, ">=": float.__ge__}
            return value is not None and order[op](value, float(bound))
        case And(parts):
            return all(decided(part, known, ordered) for part in parts)
        case Or(parts):
            return any(decided(part, known, ordered) for part in parts)
        case Not(part):
            return not decided(part, known, ordered)
    raise AssertionError(condition)


@quick
@given(random_filters(), st.integers(0, 10_000))
def test_both_halves_of_a_split_are_the_whole(condition: Filter, seed: int) -> None:
    metadata = random_metadata(random.Random(seed))
    exact, rest = split_exact(condition)
    assert exact is not None or rest is not None
    assert exact is None or is_exact(exact)
    assert all(matches(half, metadata) for half in (exact, rest) if half is not None) == matches(condition, metadata)


def test_an_exact_condition_leaves_nothing_to_read() -> None:
    condition = (field("a") == 1) & (field("b") > 2)
    assert split_exact(condition) == (condition, None)


def test_the_exact_part_of_a_conjunction_is_split_off() -> None:
    exact, inexact = field("a") == 1, field("b").text_contains("x")
    assert split_exact(exact & inexact) == (And((exact,)), And((inexact,)))
    assert split_exact(exact | inexact) == (None, exact | inexact)
    assert split_exact(~inexact) == (None, ~inexact)


@pytest.mark.parametrize("metadata", METADATA)
def test_a_round_trip_through_json_changes_no_answer(metadata: dict[str, Any]) -> None:
    again = json.loads(json.dumps(metadata))
    assert (tokens(again), numbers(again)) == (tokens(metadata), numbers(metadata))
    assert [matches(one, again) for one in FILTERS.values()] == [matches(one, metadata) for one in FILTERS.values()]


def test_tokens_are_sorted_unique_short_and_ascii() -> None:
    metadata = {"größe" * 40: "語" * 500, "k": ["a", "a", "b" * 200], "quote": 'a"b\\', "n": 10**15, "f": 1e300}
    found = tokens(metadata)
    assert found == sorted(set(found))
    assert all(token.isascii() and token.isprintable() and len(token) <= 96 for token in found)


def test_long_values_are_told_apart_by_their_hash() -> None:
    long = "x" * 500
    assert matches(field("k") == long, {"k": long})
    assert not matches(field("k") == long, {"k": long + "y"})
    assert not matches(field("k") == long, {"k": [long]})
    assert not matches(field("l") == long, {"k": long})
    assert matches(field("k").contains(long), {"k": [long]})
    assert matches(field(long).is_empty(), {})
    assert not matches(field(long).is_empty(), {long: 1})


def test_keys_and_values_cannot_be_mixed_up() -> None:
    """`a` with the value `b":"c` must not read like another key with another value."""
    assert not matches(field("a") == "b:c", {"a:b": "c"})
    equal = [{token for token in tokens(m) if token[0] == "="} for m in ({"a": 'b":"c'}, {'a":"b': "c"}, {"a": "b"})]
    assert len(set.union(*equal)) == 3


def test_what_no_filter_can_ask_for_has_only_its_presence() -> None:
    assert tokens({"k": {"deep": 1}}) == tokens({"k": 2**53}) == ['?"k"']
    assert tokens({"k": None}) == []
    assert tokens({"k": []}) == ['["k"']


def test_numbers_hold_what_can_be_ordered() -> None:
    metadata = {"i": 3, "f": 0.5, "b": True, "s": "3", "l": [3], "none": None, "huge": 2**53, "a.b": 1, "größe": 2}
    assert numbers(metadata) == {"n_i": 3.0, "n_f": 0.5, number_name("a.b"): 1.0, number_name("größe"): 2.0}


@pytest.mark.parametrize("key", ["year", "a.b", "o'k", "[0]", "größe", "x" * 49, "n_year", "", "with space", "\\"])
def test_names_of_numbers_need_no_quoting_and_differ(key: str) -> None:
    name = number_name(key)
    assert name.isascii()
    assert name.replace("_", "a").isalnum()
    assert len(name) <= 50
    assert name not in {number_name(other) for other in ("other", key + "x", f"n_{key}", f"x_{key}")}


@pytest.mark.parametrize("key", ["", 'a"b', "a\nb", "a\x00", "\x7f", 3, None, ["a"], b"a"])
def test_a_key_that_databases_cannot_quote_is_refused(key: Any) -> None:
    with pytest.raises(ValueError, match="a key is a non-empty string"):
        field(key)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, 2**53, -(2**53), [1], {"a": 1}, b"a", object(), 1j])
def test_a_value_that_cannot_be_compared_is_refused(value: Any) -> None:
    for compare in (
        lambda: field("k") == value,
        lambda: field("k") != value,
        lambda: field("k").in_([value]),
        lambda: field("k").not_in(["fine", value]),
        lambda: field("k").contains(value),
        lambda: field("k").contains_any([value]),
        lambda: field("k").contains_all([value]),
    ):
        with pytest.raises(ValueError, match="a filter compares with"):
            compare()


def test_a_missing_value_points_to_is_empty() -> None:
    with pytest.raises(ValueError, match="is_empty"):
        _ = field("k") == None  # noqa: E711


@pytest.mark.parametrize("bound", ["a", True, None, math.nan, math.inf, 2**53, [1]])
def test_a_bound_that_is_no_number_is_refused(bound: Any) -> None:
    for compare in (
        lambda: field("k") < bound,
        lambda: field("k") <= bound,
        lambda: field("k") > bound,
        lambda: field("k") >= bound,
        lambda: field("k").between(0, bound),
        lambda: field("k").between(bound, 0),
    ):
        with pytest.raises(ValueError, match="order is for numbers alone"):
            compare()


@pytest.mark.parametrize("values", ["abc", b"abc", 3, None])
def test_values_that_are_no_list_are_refused(values: Any) -> None:
    for method in ("in_", "not_in", "contains_any", "contains_all"):
        with pytest.raises(ValueError, match="a list of values"):
            getattr(field("k"), method)(values)


def test_a_substring_must_be_a_string() -> None:
    with pytest.raises(ValueError, match="takes a string"):
        field("k").text_contains(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("other", [True, "a", None, field("k")])
def test_a_filter_combines_with_filters_alone(other: Any) -> None:
    for combine in (lambda: (field("k") == 1) & other, lambda: (field("k") == 1) | other):
        with pytest.raises(ValueError, match="expected a filter"):
            combine()
    with pytest.raises(ValueError, match="expected a filter"):
        matches(other, {})


def test_and_or_and_chains_of_python_are_refused() -> None:
    for use in (
        lambda: (field("a") == 1) and (field("b") == 2),
        lambda: not (field("a") == 1),
        lambda: 1 < field("a") < 3,
    ):
        with pytest.raises(TypeError, match="combine filters with"):
            use()


def test_filters_are_values() -> None:
    build = lambda: (field("a") == 1) & ~(field("b") > 2) | field("c").text_contains("x")  # noqa: E731
    assert build() == build()
    assert len({build(), build(), field("a") == 1}) == 2


def test_values_are_read_once() -> None:
    assert matches(field("k").in_(value for value in ("a", "b")), {"k": "b"})
    assert matches(field("k").contains_all(value for value in ("a", "b")), {"k": ["a", "b"]})


def alternate(condition: Filter, times: int) -> Filter:
    for i in range(times):
        condition = (condition & (field("b") == i)) | (field("c") == i)
    return condition


def test_negations_cancel_and_nesting_has_a_limit() -> None:
    condition = field("a") == 1
    assert ~~condition == condition
    alternate(condition, 30)
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        alternate(condition, 100)


def test_a_native_condition_is_for_its_database_alone() -> None:
    native = Native("a == 1")
    assert is_exact(native & (field("k") == 1))
    assert split_exact(native & field("k").text_contains("a")) == (
        And((native,)),
        And((field("k").text_contains("a"),)),
    )
    with pytest.raises(ValueError, match="only its own database can judge 'a == 1'"):
        matches(native, {"a": 1})


def test_a_predicate_sees_all_metadata_and_combines_with_other_conditions() -> None:
    both = Predicate(lambda metadata: metadata.get("a") == metadata.get("b"))
    assert matches(both, {"a": [1], "b": [1]})
    assert not matches(both, {"a": 1})
    assert matches(~both & (field("a") == 1), {"a": 1})
    assert not is_exact(~both)
    assert split_exact((field("a") == 1) & both) == (And((field("a") == 1,)), And((both,)))
