"""Cleanup policies through the REST API, where a plugin keeps them and where none does (semantics 7.1)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.rest.place import Place, url
from tests.support.gateway import GatewayProcess
from tests.support.people import CAROL_API, PRIVATE, PUBLIC

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.wire import Account, Answer

FORM = "application/x-www-form-urlencoded"


def change(place: Place, project: str, attributes: dict[str, Any], account: Account | None = None) -> Answer:
    """Change a policy, as python-gitlab does."""
    body = json.dumps({"container_expiration_policy_attributes": attributes}).encode()
    headers = {"Content-Type": "application/json"}
    path = url("projects", project)
    if account is not None:
        return place.send("PUT", path, account, body, headers)
    return place.send("PUT", path, body=body, headers=headers)


def policy(place: Place, project: str) -> dict[str, Any]:
    """Read a policy."""
    found = place.get("projects", project).expect(200).json()["container_expiration_policy"]
    assert isinstance(found, dict)
    return found


def test_a_policy_is_kept_and_shown(place: Place) -> None:
    """What is not named stays; ``name_regex_delete`` is ``name_regex``; nothing unsets."""
    attributes = {
        "cadence": "1month",
        "enabled": True,
        "keep_n": 5,
        "name_regex_delete": "v.*",
        "name_regex_keep": "v1",
    }
    shown = change(place, PRIVATE, attributes).expect(200).json()["container_expiration_policy"]
    expected = {"cadence": "1month", "enabled": True, "keep_n": 5, "name_regex": "v.*", "name_regex_keep": "v1"}
    assert expected.items() <= shown.items()
    assert shown["next_run_at"].endswith("Z")
    change(place, PRIVATE, {"keep_n": None, "older_than": "30d"}).expect(200)
    again = policy(place, PRIVATE)
    assert {**expected, "keep_n": None, "older_than": "30d"}.items() <= again.items()


def test_a_policy_comes_as_a_form(place: Place) -> None:
    """``--data 'container_expiration_policy_attributes[cadence]=7d'``, and an empty number is none."""
    body = "&".join(
        f"container_expiration_policy_attributes[{name}]={value}"
        for name, value in {"cadence": "7d", "enabled": "False", "keep_n": ""}.items()
    )
    place.send("PUT", url("projects", PUBLIC), body=body.encode(), headers={"Content-Type": FORM}).expect(200)
    assert {"cadence": "7d", "enabled": False, "keep_n": None}.items() <= policy(place, PUBLIC).items()


WRONG = [
    pytest.param({"cadence": "2d"}, "cadence", id="cadence"),
    pytest.param({"keep_n": 7}, "keep_n", id="keep_n"),
    pytest.param({"older_than": "1d"}, "older_than", id="older_than"),
    pytest.param({"enabled": True, "name_regex_delete": "("}, "name_regex", id="pattern"),
    pytest.param({"enabled": True, "name_regex_keep": "*"}, "name_regex_keep", id="pattern that keeps"),
]


@pytest.mark.parametrize(("attributes", "field"), WRONG)
def test_a_wrong_setting_is_named(place: Place, attributes: dict[str, Any], field: str) -> None:
    """400 in the form of GitLab's validations; nothing is changed."""
    before = policy(place, PRIVATE)
    (said,) = change(place, PRIVATE, attributes).expect(400).json()["message"].items()
    assert said[0] == f"container_expiration_policy.{field}"
    assert len(said[1]) == 1
    assert policy(place, PRIVATE) == before


def test_a_developer_changes_no_policy(place: Place) -> None:
    """403: it is a maintainer's since GitLab 15."""
    change(place, PRIVATE, {"keep_n": 1}, CAROL_API).expect(403)


def test_where_nobody_keeps_policies_the_answer_says_so(tmp_path: Path) -> None:
    """400, and the project shows none."""
    gateway = GatewayProcess(tmp_path / "gateway")
    sections = yaml.safe_load(gateway.config.read_text())
    sections["plugins"] = [item for item in sections["plugins"] if item["use"] != "cleanup"]
    gateway.config.write_text(yaml.safe_dump(sections))
    gateway.start()
    try:
        place = Place(gateway)
        answer = change(place, PRIVATE, {"keep_n": 1}).expect(400)
        assert "no plugin that keeps cleanup policies is enabled" in answer.json()["message"]
        assert "container_expiration_policy" not in place.get("projects", PRIVATE).expect(200).json()
    finally:
        gateway.end()
