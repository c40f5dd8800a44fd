"""The numbers by which the REST API knows projects, groups, users and tokens."""

from __future__ import annotations

from plugins.auth_local.numbers import numbered

PATHS = [f"acme/p{number}" for number in range(500)]


def test_a_given_number_is_kept() -> None:
    """What the directory says counts."""
    assert numbered("project", {"acme/app": 42, "acme/other": None})["acme/app"] == 42


def test_made_numbers_are_the_same_each_time() -> None:
    """A number depends on the kind and the name alone: not on the order, nor on what else there is."""
    all_of_them = numbered("project", dict.fromkeys(PATHS))
    assert numbered("project", dict.fromkeys(reversed(PATHS))) == all_of_them
    assert numbered("project", {PATHS[7]: None}) == {PATHS[7]: all_of_them[PATHS[7]]}
    assert numbered("group", {PATHS[7]: None}) != numbered("project", {PATHS[7]: None})


def test_made_numbers_are_positive_and_fit_32_bits() -> None:
    """Every client can hold them."""
    found = numbered("user", dict.fromkeys(PATHS)).values()
    assert all(0 < number < 2**31 for number in found)
    assert len(set(found)) == len(PATHS)


def test_a_made_number_gives_way() -> None:
    """Where somebody was given the number that would be made, another one is made, the same each time."""
    made = numbered("project", {"acme/app": None})["acme/app"]
    found = numbered("project", {"acme/app": None, "zoo/last": made})
    assert found["zoo/last"] == made
    assert found["acme/app"] != made
    assert numbered("project", {"zoo/last": made, "acme/app": None}) == found
