"""GitLab's algorithm, step by step (semantics 7.2), and the traps of semantics 16 that are about it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.retention import Contents, Tagged, plan
from gateway.errors import InvalidSettingError
from gateway.oci import RepositoryName
from gateway.plugins import CleanupRules, ExpirationPolicy, Plan, name_pattern

NOW = datetime(2026, 6, 1, tzinfo=UTC)
APP = RepositoryName("acme/app")
DAY = timedelta(days=1)


def sha256(text: str) -> str:
    """Make the digest of a manifest that a test calls *text*."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def companion(text: str, ending: str = ".sig") -> str:
    """Make the tag that belongs to it."""
    return f"{sha256(text).replace(':', '-')}{ending}"


def contents(tags: Mapping[str, float | None], **made_of: Sequence[str]) -> Contents:
    """Have tags on images of their own names, so many days old; and indexes of images."""
    tagged = [
        Tagged(name, sha256(name), None if age is None else NOW - age * DAY) for name, age in sorted(tags.items())
    ]
    children = {sha256(index): [sha256(child) for child in listed] for index, listed in made_of.items()}
    manifests = {tag.digest: None for tag in tagged} | {one: None for listed in children.values() for one in listed}
    return Contents(tagged, manifests, children)


def decided(tags: Mapping[str, float | None], **rules: object) -> dict[str, str]:
    """Give the rule that decides about each tag."""
    return rules_of(plan(APP, contents(tags), CleanupRules(**rules), NOW))  # type: ignore[arg-type]


def rules_of(found: Plan) -> dict[str, str]:
    """Give the rule that decided about each tag, in capitals where it goes."""
    return {tag.name: tag.rule.upper() if tag.remove else tag.rule for tag in found.tags}


PATTERNS = [
    pytest.param("v1", "v1", True, id="the whole name"),
    pytest.param("v1", "v1.0", False, id="anchored at the end"),
    pytest.param("v1", "av1", False, id="anchored at the beginning"),
    pytest.param("release|v.*", "release-1", True, id="trap 23: the first of two begins the name"),
    pytest.param("release|v.*", "old-v2", True, id="trap 23: the last of two ends it"),
    pytest.param("release|v.*", "old-release", False, id="trap 23: the first is not found elsewhere"),
    pytest.param("(?:release|v.*)", "release-1", False, id="a group is anchored as a whole"),
    pytest.param("(?:release|v.*)", "old-v2", False, id="a group is anchored as a whole, at its end"),
    pytest.param("a|b|c", "xbx", True, id="trap 23: what is in the middle is not anchored"),
    pytest.param(".*", "anything", True, id="everything"),
    pytest.param("", "v1", False, id="nothing"),
    pytest.param("V1", "v1", False, id="by case"),
    pytest.param("(?i)V1", "v1", True, id="RE2's flags"),
    pytest.param(r"\d+\.\d+", "10.2", True, id="RE2's classes"),
    pytest.param(r"[[:alpha:]]+", "main", True, id="POSIX classes"),
    pytest.param("v1$", "v1", True, id="an anchor of one's own"),
]


@pytest.mark.parametrize(("pattern", "name", "fits"), PATTERNS)
def test_patterns(pattern: str, name: str, fits: bool) -> None:  # noqa: FBT001 - a table's column
    """Patterns are RE2's, anchored textually and without a group (trap 23)."""
    assert name_pattern(pattern)(name) is fits


NO_PATTERNS = [
    pytest.param("[", "missing ]", id="a class without an end"),
    pytest.param("*", "no argument for repetition", id="nothing to repeat, which the anchor would hide"),
    pytest.param("\\", "trailing", id="a backslash at the end, which the anchor would hide"),
    pytest.param("a)", "unexpected )", id="a bracket too many"),
    pytest.param(r"(a)\1", "invalid escape", id="a reference back, which RE2 has not"),
    pytest.param("(?=a)", "(?=", id="a look ahead, which RE2 has not"),
    pytest.param("a{1001}", "repetition", id="too many repetitions"),
    pytest.param("a" * 2049, "longer than 2048", id="too long"),
    pytest.param(r"(?:\pL\pN?){60}x", "pattern too large", id="short, and a program of 85,000 instructions"),
    pytest.param("\ud800", "not a text", id="half a letter"),
]


@pytest.mark.parametrize(("pattern", "said"), NO_PATTERNS)
def test_what_is_no_pattern(pattern: str, said: str) -> None:
    """RE2 refuses it, and says why; nothing is planned by it."""
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace("?", r"\?").replace(")", r"\)")):
        name_pattern(pattern)
    for setting in ("name_regex_delete", "name_regex_keep"):
        with pytest.raises(InvalidSettingError, match=f"^{setting} is an invalid regexp"):
            plan(APP, contents({"v1": 1}), CleanupRules(**{setting: pattern}), NOW)  # type: ignore[arg-type]


NAMES = [
    pytest.param({}, {"latest": "latest", "v1": "no_match"}, id="without a pattern nothing goes"),
    pytest.param({"name_regex_delete": ""}, {"latest": "latest", "v1": "no_match"}, id="nor by an empty one"),
    pytest.param({"name_regex_delete": ".*"}, {"latest": "latest", "v1": "MATCHED"}, id="all but latest"),
    pytest.param({"name_regex_delete": "latest"}, {"latest": "latest", "v1": "no_match"}, id="latest, by its name"),
    pytest.param(
        {"name_regex_delete": ".*", "name_regex_keep": "v.*"}, {"v1": "kept_by_pattern", "x": "MATCHED"}, id="keep wins"
    ),
    pytest.param({"name_regex_delete": ".*", "name_regex_keep": ""}, {"v1": "MATCHED"}, id="an empty one keeps none"),
    pytest.param(
        {"name_regex_delete": "v.*", "name_regex_keep": "x"}, {"v1": "MATCHED", "x": "no_match"}, id="delete is first"
    ),
]


@pytest.mark.parametrize(("rules", "wanted"), NAMES)
def test_steps_3_to_5(rules: Mapping[str, object], wanted: Mapping[str, str]) -> None:
    """First `latest` is dropped, then what does not fit, then what is kept (trap 25)."""
    assert decided(dict.fromkeys(wanted, 1000.0), **rules) == wanted


def test_other_tags_of_the_latest_image() -> None:
    """Trap 25: `latest` is a name; another tag on the same image goes."""
    tags = [Tagged("latest", sha256("one")), Tagged("v1", sha256("one"))]
    found = plan(APP, Contents(tags, {sha256("one"): None}), CleanupRules(".*"), NOW)
    assert rules_of(found) == {"latest": "latest", "v1": "MATCHED"}


NEWEST = [
    pytest.param(1, {"a": 3, "b": 1, "c": 2}, {"b"}, id="the newest"),
    pytest.param(2, {"a": 3, "b": 1, "c": 2}, {"b", "c"}, id="the two newest"),
    pytest.param(0, {"a": 1}, set(), id="none, which the bulk API may ask for"),
    pytest.param(5, {"a": 1, "b": 2}, {"a", "b"}, id="more than there are"),
    pytest.param(1, {"a": 1, "latest": 0}, {"a"}, id="trap 25: latest takes no place"),
    pytest.param(1, {"a": 1, "b": None}, {"b"}, id="trap 26: without a date it is the newest"),
    pytest.param(2, {"a": 1, "b": None, "c": 2}, {"a", "b"}, id="trap 26: and takes a place"),
    pytest.param(1, {"a": -1, "b": None}, {"a"}, id="trap 26: it counts as now, which a later date is behind"),
    pytest.param(1, {"a": 1, "b": 1, "c": 1}, {"c"}, id="ties: the later-listed first"),
    pytest.param(1, {"a": None, "b": None}, {"b"}, id="ties: also without dates"),
    pytest.param(1, {"a": 5, "kept": 1}, {"a"}, id="what is kept by its name takes no place"),
]


@pytest.mark.parametrize(("keep_n", "tags", "newest"), NEWEST)
def test_step_7(keep_n: int, tags: Mapping[str, float | None], newest: set[str]) -> None:
    """The first N by date stay, of those that are left (traps 25 and 26)."""
    found = decided(tags, name_regex_delete=".*", name_regex_keep="kept", keep_n=keep_n)
    assert {name for name, rule in found.items() if rule == "newest"} == newest
    assert set(found.values()) <= {"newest", "MATCHED", "latest", "kept_by_pattern"}


OLDER = [
    pytest.param(8.0, "MATCHED", id="older"),
    pytest.param(7.0, "not_older", id="as old: only what is strictly older goes"),
    pytest.param(7 + 1 / 86400, "MATCHED", id="by a second"),
    pytest.param(6.0, "not_older", id="younger"),
    pytest.param(-1.0, "not_older", id="from tomorrow"),
    pytest.param(None, "undated", id="trap 26: without a date it is never older"),
    pytest.param(20000.0, "MATCHED", id="from 1970, as a reproducible build is"),
]


@pytest.mark.parametrize(("age", "rule"), OLDER)
def test_step_8(age: float | None, rule: str) -> None:
    """Only what is strictly older goes."""
    assert decided({"a": age}, name_regex_delete=".*", older_than=7 * DAY) == {"a": rule}


def test_without_keep_n_and_older_than_undated_tags_go() -> None:
    """Trap 26: where dates do not matter, having none saves nothing."""
    assert decided({"a": None, "b": 1}, name_regex_delete=".*") == {"a": "MATCHED", "b": "MATCHED"}


def test_the_order_of_the_steps() -> None:
    """`keep_n` counts among what fits and is not kept, and `older_than` among what is left."""
    tags = {"latest": 0, "v1": 100, "v2": 50, "v3": 10, "v4": 1, "rc1": 0, "v5-keep": 0, "v6": None}
    found = decided(tags, name_regex_delete="v.*", name_regex_keep=".*-keep", keep_n=2, older_than=30 * DAY)
    assert found == {
        "latest": "latest",
        "rc1": "no_match",
        "v5-keep": "kept_by_pattern",
        "v6": "newest",
        "v4": "newest",
        "v3": "not_older",
        "v2": "MATCHED",
        "v1": "MATCHED",
    }


def test_the_documentation_s_example() -> None:
    """Keep 1, keep `production-.*`, older than 7 days, remove `.*` (semantics 7.3)."""
    tags = {"latest": 100, "production-1": 100, "a": 1, "b": 6, "c": 8, "d": 90}
    policy = ExpirationPolicy(keep_n=1, name_regex_keep="production-.*", older_than="7d", name_regex=".*")
    found = rules_of(plan(APP, contents(tags), CleanupRules.of(policy), NOW))
    assert {name for name, rule in found.items() if rule == "MATCHED"} == {"c", "d"}


def test_step_6_takes_a_sample() -> None:
    """Of more than max_list_size + keep_n tags so many are looked at, by chance, and the run is cut."""
    tags: dict[str, float | None] = {f"v{number}": number for number in range(100)}
    rules = CleanupRules(".*", None, 5, None, max_list_size=10)
    first, again = (plan(APP, contents(tags), rules, NOW) for _ in range(2))
    assert first.cut
    assert (len(first.removed), sum(tag.rule == "newest" for tag in first.tags)) == (10, 5)
    assert sum(tag.rule == "not_listed" for tag in first.tags) == 85
    # What is applied is the plan that was looked at; another day it is another sample.
    assert first.id == again.id
    assert plan(APP, contents(tags), rules, NOW + DAY).id != first.id


@pytest.mark.parametrize("limit", [0, 95])
def test_step_6_leaves_what_it_need_not_cut(limit: int) -> None:
    """No limit, or as many as it lets through, is no cut."""
    tags: dict[str, float | None] = {f"v{number}": number for number in range(100)}
    found = plan(APP, contents(tags), CleanupRules(".*", None, 5, None, max_list_size=limit), NOW)
    assert not found.cut
    assert len(found.removed) == 95


def test_a_policy_that_makes_no_sense() -> None:
    """A policy of another server's may say anything; by an age that is none nothing is planned."""
    with pytest.raises(InvalidSettingError, match="older_than"):
        CleanupRules.of(ExpirationPolicy(older_than="soon"))


def test_a_deletion_that_broke_off() -> None:
    """What stands for a tag that was being deleted goes, whatever its date, and takes no place among the newest."""
    tags = {"latest": None, "kept": None, "other": None, "v1": None, "v2": 50, "v3": 3}
    there = contents(tags)
    broken = frozenset(sha256(name) for name in ("latest", "kept", "other", "v1"))
    there = replace(there, interrupted=broken)
    found = plan(APP, there, CleanupRules("v.*|kept", "kept", 1, 7 * DAY), NOW)
    assert rules_of(found) == {
        "latest": "latest",
        "kept": "kept_by_pattern",
        "other": "no_match",
        "v1": "INTERRUPTED",
        "v2": "MATCHED",
        "v3": "newest",
    }
    # Under the tag that was confirmed there is another image by now.
    only = plan(APP, there, CleanupRules("v.*"), NOW, {"v1": sha256("its image")})
    assert list(only.removed) == ["v1"]
    other = plan(APP, there, CleanupRules("v.*"), NOW, {"v2": sha256("v2")})
    assert list(other.removed) == ["v2"]


# -- what belongs together -------------------------------------------------------------------------------


def test_companions_stay_with_their_subject() -> None:
    """A signature is no candidate of its own and takes no place among the newest."""
    tags = {"v1": 100, companion("v1"): None, companion("v1", ""): None, "v2": 1}
    found = decided(tags, name_regex_delete=".*", keep_n=1, older_than=200 * DAY)
    assert found == {"v1": "not_older", companion("v1"): "companion", companion("v1", ""): "companion", "v2": "newest"}


@pytest.mark.parametrize("keep", [None, "sha256-.*"])
def test_companions_go_with_their_subject(keep: str | None) -> None:
    """And their own go with them, whatever their names and dates."""
    signature = companion("v1")
    tags = {"v1": 100.0, signature: None, companion(signature): 1.0, companion("v2"): 100.0, "v2": 1}
    found = decided(tags, name_regex_delete="v.*", name_regex_keep=keep, older_than=7 * DAY)
    assert {name for name, rule in found.items() if rule.isupper()} == {"v1", signature, companion(signature)}
    assert found[companion("v2")] == "companion"


def test_companions_of_a_child_stay_with_the_index() -> None:
    """The child's own tag goes, its signature stays as long as an index leads to it."""
    tags = {"amd64": 100, "index": 1, companion("amd64"): 100}
    found = rules_of(plan(APP, contents(tags, index=["amd64"]), CleanupRules("amd64"), NOW))
    assert found == {"amd64": "MATCHED", "index": "no_match", companion("amd64"): "companion"}
    found = rules_of(plan(APP, contents(tags, index=["amd64"]), CleanupRules(".*"), NOW))
    assert found[companion("amd64")] == "COMPANION"


def test_orphans_are_tags_like_others() -> None:
    """What belonged to an image that is gone goes by the rules."""
    assert decided({companion("gone"): 100, "v1": 1}, name_regex_delete=".*", older_than=7 * DAY) == {
        companion("gone"): "MATCHED",
        "v1": "not_older",
    }


def test_companions_of_what_no_tag_leads_to_stay() -> None:
    """An image that is pulled by digest alone keeps its signature."""
    tagged = [Tagged(companion("by digest"), sha256("signature"), NOW - 100 * DAY)]
    manifests = {sha256("by digest"): None, sha256("signature"): None}
    assert rules_of(plan(APP, Contents(tagged, manifests), CleanupRules(".*"), NOW)) == {tagged[0].name: "companion"}


def test_what_belongs_to_a_referrer_goes_with_the_subject() -> None:
    """The signature of an image's SBOM goes when the image does, and no sooner."""
    signature = companion("sbom")
    tagged = [Tagged(signature, sha256("signature")), Tagged("v1", sha256("v1")), Tagged("v2", sha256("v1"))]
    manifests = {sha256("v1"): None, sha256("sbom"): sha256("v1"), sha256("signature"): None}
    found = Contents(tagged, manifests)
    assert rules_of(plan(APP, found, CleanupRules("v1"), NOW))[signature] == "companion"
    assert rules_of(plan(APP, found, CleanupRules("v.*"), NOW))[signature] == "COMPANION"


# -- plans ------------------------------------------------------------------------------------------------


def test_bytes() -> None:
    """A tag's bytes are those that only what goes leads to; of the whole plan each counts once."""
    tagged = [Tagged(name, sha256(name)) for name in ("a", "b", "index", "kept")]
    blobs = {"a": {"base": 100, "shared": 10, "own a": 1}, "b": {"base": 100, "shared": 10}, "kept": {"base": 100}}
    blobs |= {"child": {"own child": 1000}, "sbom": {"own sbom": 10000}}
    found = Contents(
        tagged,
        {sha256(name): None for name in blobs} | {sha256("sbom"): sha256("b")},
        {sha256("index"): [sha256("child"), sha256("kept")]},
        {sha256(name): sizes for name, sizes in blobs.items()},
    )
    decided_bytes = plan(APP, found, CleanupRules("a|b|index"), NOW)
    assert {tag.name: tag.bytes for tag in decided_bytes.tags} == {"a": 11, "b": 10010, "index": 1000, "kept": 0}
    assert decided_bytes.bytes == 11011


GRAPHS = st.lists(
    st.tuples(
        st.sets(st.integers(0, 5), max_size=4),
        st.sets(st.integers(0, 30), max_size=3),
        st.none() | st.integers(0, 30),
        st.sampled_from(["v", "kept", ""]),
    ),
    min_size=1,
    max_size=12,
)


@given(GRAPHS)
def test_bytes_of_any_graph(graph: list[tuple[set[int], set[int], int | None, str]]) -> None:
    """Whatever leads to what, a tag's bytes are the sum over what it leads to and no tag that stays does."""
    names = [sha256(str(place)) for place in range(len(graph))]
    below: dict[str, set[str]] = {name: set() for name in names}
    children: dict[str, list[str]] = {}
    subjects: dict[str, str | None] = {}
    for place, (_, listed, subject, _) in enumerate(graph):
        children[names[place]] = sorted({names[one % place] for one in listed} if place else set())
        below[names[place]] |= set(children[names[place]])
        subjects[names[place]] = names[subject % place] if subject is not None and place else None
    for name, subject_of in subjects.items():
        if subject_of is not None:
            below[subject_of].add(name)

    def reached(start: set[str]) -> set[str]:
        while True:
            more = start | {one for digest in start for one in below[digest]}
            if more == start:
                return start
            start = more

    blobs = {name: {f"blob {one}": 10**one for one in own} for name, (own, _, _, _) in zip(names, graph, strict=True)}
    tagged = [Tagged(f"{tag}{place}", names[place]) for place, (_, _, _, tag) in enumerate(graph) if tag]
    found = plan(APP, Contents(tagged, subjects, children, blobs), CleanupRules("v.*"), NOW)
    kept = {blob for one in reached({tag.digest for tag in found.tags if not tag.remove}) for blob in blobs[one]}

    def freed(start: set[str]) -> int:
        sizes = {blob: size for one in reached(start) for blob, size in blobs[one].items() if blob not in kept}
        return sum(sizes.values())

    assert {tag.name: tag.bytes for tag in found.tags if tag.remove} == {
        tag.name: freed({tag.digest}) for tag in found.tags if tag.remove
    }
    assert found.bytes == freed({tag.digest for tag in found.tags if tag.remove})


def test_a_long_chain() -> None:
    """A plan over 10,000 tagged images, each the subject of the next, takes no longer than one over any others."""
    names = [sha256(str(place)) for place in range(10_000)]
    tagged = [Tagged(f"v{place:05}", name) for place, name in enumerate(names)]
    subjects = {name: names[place - 1] if place else None for place, name in enumerate(names)}
    blobs = {name: {name: 1} for name in names}
    began = time.monotonic()
    found = plan(APP, Contents(tagged, subjects, {}, blobs), CleanupRules(".*"), NOW)
    assert time.monotonic() - began < 5
    assert [tag.bytes for tag in found.tags] == list(range(10_000, 0, -1))
    assert found.bytes == 10_000


def test_only_what_was_confirmed() -> None:
    """With a plan that was confirmed nothing else goes, nor what points elsewhere by now."""
    tags = {"a": 1, "b": 1, "c": 1}
    only = {"a": sha256("a"), "b": sha256("another image")}
    found = plan(APP, contents(tags), CleanupRules(".*"), NOW, only)
    assert rules_of(found) == {"a": "MATCHED", "b": "not_confirmed", "c": "not_confirmed"}


def test_the_id_is_of_what_goes() -> None:
    """Two plans have one id if and only if they remove the same tags from the same images."""
    first = plan(APP, contents({"a": 1, "b": 9}), CleanupRules("b"), NOW)
    assert plan(APP, contents({"a": 5, "b": 8, "c": 1}), CleanupRules("b"), NOW + DAY).id == first.id
    assert plan(APP, contents({"a": 1, "b": 9}), CleanupRules("a"), NOW).id != first.id
    assert plan(RepositoryName("acme/other"), contents({"a": 1, "b": 9}), CleanupRules("b"), NOW).id != first.id


def test_every_tag_is_in_the_plan_with_a_reason() -> None:
    """The plan lists all tags by name, each with its rule in a sentence."""
    found = plan(APP, contents({"b": 9, "a": 1, "latest": 1}), CleanupRules("b", None, 5, 7 * DAY), NOW)
    assert [tag.name for tag in found.tags] == ["a", "b", "latest"]
    assert [tag.why for tag in found.tags] == [
        "its name does not fit `b`",
        "among the 5 newest",
        "`latest` is never removed",
    ]
    gone = plan(APP, contents({"b": 9}), CleanupRules("b", None, 0, 7 * DAY), NOW).tags[0]
    assert gone.why == "its name fits `b`, it is older than 7d"
    assert gone.as_json() | {"digest": "", "created_at": ""} == {
        "name": "b",
        "digest": "",
        "decision": "remove",
        "rule": "matched",
        "why": gone.why,
        "created_at": "",
        "size": None,
        "bytes": 0,
    }
