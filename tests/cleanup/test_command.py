"""``registry-gateway cleanup`` beside a gateway that serves, as an operator uses it."""

from __future__ import annotations

import getpass
import json
import os
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import yaml

from tests.cleanup.conftest import DAY, NOW, Inside, aged, change
from tests.cleanup.test_processes import tags
from tests.support.gateway import PROGRAM, GatewayProcess
from tests.support.images import Image, index
from tests.support.peers import Finished, eventually, run
from tests.support.people import ALICE, ALICE_API, HIDDEN, INTERNAL, PRIVATE, PUBLIC
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def fill(gateway: GatewayProcess, repository: str) -> dict[str, Image]:
    """Push images of all ages, by their tags."""
    ages = {"latest": 50, "v1": 40, "v2": 30, "v3": 3, "v4": 1, "v9": 90, "other": 90}
    pushed = {tag: aged(f"{repository} {tag}", days) for tag, days in ages.items()}
    for tag, each in pushed.items():
        gateway.wire(ALICE).push_image(repository, tag, each)
    return pushed


def cleanup(gateway: GatewayProcess, *words: str | Path, environment: Mapping[str, str] | None = None) -> Finished:
    """Run the command to its end."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_GATEWAY_", "NO_COLOR"))}
    words = ("cleanup", *words, "--config", gateway.config)
    return run([PROGRAM, *words], environment=own | {"TERM": "xterm-256color"} | dict(environment or {}))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """Serve with a limit of half; tests keep apart by their projects."""
    process = GatewayProcess(tmp_path_factory.mktemp("served"), cleanup={"max_delete_percent": 50})
    process.start()
    yield process
    process.end()


DECISIONS = {
    "latest": "latest",
    "v1": "matched",
    "v2": "matched",
    "v3": "not_older",
    "v4": "newest",
    "v9": "kept_by_pattern",
    "other": "no_match",
}


def test_plan_and_run(served: GatewayProcess, inside: Inside, tmp_path: Path) -> None:
    """`plan` lists every tag with its rule and bytes and changes nothing; `run` does that; then nothing is left."""
    pushed = fill(served, PRIVATE)
    change(served, PRIVATE)
    document = json.loads(cleanup(served, "plan", PRIVATE, "--json").stdout)
    (plan,) = document["repositories"]
    assert (document["project"], document["policy"]["enabled"], document["waiting"]) == (PRIVATE, True, {})
    assert plan["repository"] == PRIVATE
    assert {tag["name"]: tag["rule"] for tag in plan["tags"]} == DECISIONS
    for tag in plan["tags"]:
        of = pushed[tag["name"]]
        assert (tag["digest"], tag["size"]) == (of.manifest.digest, len(of.layers[0].content))
        assert tag["decision"] == ("remove" if tag["rule"] == "matched" else "keep")
        own = len(of.layers[0].content) + len(of.config.content)
        assert tag["bytes"] == (own if tag["decision"] == "remove" else 0)
    both = sum(len(blob.content) for tag in ("v1", "v2") for blob in (pushed[tag].config, *pushed[tag].layers))
    assert plan["total"] == {"tags": 7, "remove": 2, "keep": 5, "percent": 28.6, "bytes": both}
    assert tags(served.wire(ALICE), PRIVATE) == sorted(DECISIONS)

    # What is applied is that plan: a tag that was not in it stays, and one that moved since.
    saved = tmp_path / "plan.json"
    saved.write_text(json.dumps(document))
    served.wire(ALICE).push_image(PRIVATE, "v2", aged("moved", 60))
    done = inside(served, "run", PRIVATE, "--plan", saved, "--json")
    (outcome,) = json.loads(done.stdout)
    assert (outcome["status"], outcome["planned"], outcome["removed"], outcome["stayed"]) == ("finished", 1, 1, 0)
    # What was deleted is a line of the log, as if the gateway had done it.
    (line,) = [json.loads(text) for text in done.stderr.splitlines()]
    assert (line["event"], line["tags"], line["digest"]) == ("deleted", ["v1"], pushed["v1"].manifest.digest)
    assert (line["how"], line["subject"]) == ("cleanup policy", getpass.getuser())
    assert tags(served.wire(ALICE), PRIVATE) == ["latest", "other", "v2", "v3", "v4", "v9"]

    # On a terminal there is a progress bar, on standard error.
    done = cleanup(served, "run", PRIVATE, environment={"FORCE_COLOR": "1"})
    assert done.stdout == f"{PRIVATE}: 1 of 1 planned tags removed\n"
    assert PRIVATE in done.stderr
    assert "1/1" in done.stderr
    assert tags(served.wire(ALICE), PRIVATE) == ["latest", "other", "v3", "v4", "v9"]
    done = inside(served, "plan", PRIVATE)
    assert "0 of 5 tags (0 %) would be removed" in done.stdout


def test_the_table(served: GatewayProcess) -> None:
    """One line for each tag, in columns; colours on a terminal alone; and a table for each repository."""
    fill(served, f"{PUBLIC}/app")
    served.wire(ALICE).push_image(PUBLIC, "v1", aged("root", 100))
    change(served, PUBLIC, enabled=False, keep_n=None)
    plain = cleanup(served, "plan", PUBLIC).stdout
    assert "\x1b" not in plain
    lines = plain.splitlines()
    head = lines.index(f"{PUBLIC}/app")
    assert lines[head + 1].split() == ["tag", "image", "created", "size", "frees", "why"]
    table = {line.split()[0]: line for line in lines[head + 2 : head + 9]}
    assert sorted(table) == sorted(DECISIONS)
    assert f"{NOW - 40 * DAY:%Y-%m-%d %H:%M}" in table["v1"]
    assert table["v1"].endswith("remove  its name fits `v.*|latest`, it is older than 7d")
    assert table["v9"].endswith("keep    its name fits `v9`, which is kept")
    assert table["latest"].endswith("keep    `latest` is never removed")
    assert "2 of 7 tags (29 %) would be removed" in lines[head + 9]
    assert lines.index(PUBLIC) != head
    assert lines[-1] == f"The policy of {PUBLIC} is not enabled: nothing of this happens by itself."
    only = cleanup(served, "plan", PUBLIC, "--repository", PUBLIC, environment={"FORCE_COLOR": "1"}).stdout
    assert "\x1b[1;31mremove" in only
    assert f"{PUBLIC}/app" not in only


def test_more_than_may_go_unasked(served: GatewayProcess, inside: Inside) -> None:
    """`run` stops and says how to go on; `confirm` does, and a gateway that serves carries it out."""
    for number in range(3):
        served.wire(ALICE).push_image(INTERNAL, f"v{number}", aged(f"old {number}", 100))
    change(served, INTERNAL, keep_n=None)
    failed = inside(served, "run", INTERNAL, fails=True)
    assert failed.stderr == (
        f"{INTERNAL}: 3 of 3 tags: 100.0 % of the tags would go, max_delete_percent is 50: somebody has to confirm it: "
        f"`registry-gateway cleanup confirm {INTERNAL}`, or run it with --yes\n"
    )
    assert len(tags(served.wire(ALICE), INTERNAL)) == 3
    document = json.loads(inside(served, "plan", INTERNAL, "--json").stdout)
    assert document["waiting"] == {INTERNAL: document["repositories"][0]["id"]}
    confirmed = cleanup(served, "confirm", INTERNAL, "--json").stdout
    assert json.loads(confirmed) == document["waiting"]
    eventually(lambda: tags(served.wire(ALICE), INTERNAL) == [], "a gateway carries it out")
    assert inside(served, "confirm", INTERNAL, fails=True).stderr == (f"{INTERNAL}: nothing waits for a confirmation\n")
    served.wire(ALICE).push_image(INTERNAL, "v1", aged("again", 100))
    assert inside(served, "run", INTERNAL, "--yes").stdout == f"{INTERNAL}: 1 of 1 planned tags removed\n"


def test_what_can_t_be_done_is_one_line(served: GatewayProcess, inside: Inside, tmp_path: Path) -> None:
    """Each mistake is said in a line that names it, with exit status 1."""
    served.wire(ALICE).push_image(HIDDEN, "v1", aged("hidden", 100))
    broken = tmp_path / "plan.json"
    broken.write_text("{}")
    refused: list[tuple[tuple[str | Path, ...], str]] = [
        (("plan", "acme/nosuch"), "there is no project acme/nosuch, as far as the gateway can see"),
        (("plan", "conf/other"), "conf/other has no repositories"),
        (("run", HIDDEN), f"the cleanup policy of {HIDDEN} is not enabled; `cleanup plan {HIDDEN}` shows what it says"),
        (("plan", HIDDEN, "--repository", PRIVATE), f"--repository: {HIDDEN} has no repository {PRIVATE}"),
        (("run", HIDDEN, "--plan", broken), f"--plan: {broken} is no output of `cleanup plan --json`"),
        (
            ("run", HIDDEN, "--plan", tmp_path / "no"),
            f"--plan: cannot read {tmp_path / 'no'}: No such file or directory",
        ),
    ]
    for words, said in refused:
        assert inside(served, *words, fails=True).stderr == f"{said}\n"


def test_a_policy_that_is_running(served: GatewayProcess, inside: Inside) -> None:
    """While a gateway or another command runs it, this one does not."""
    project = "conf/project"
    served.wire(ALICE).push_image(project, "v1", aged("busy", 100))
    change(served, project)
    with closing(sqlite3.connect(served.data / "gateway.db", timeout=20)) as tables, tables:
        row = (f"cleanup policy {project}", "somebody else", int((time.time() + 600) * 1000))
        tables.execute("INSERT INTO leases VALUES (?, ?, ?)", row)
    assert inside(served, "run", project, fails=True).stderr == (
        f"a gateway or another command runs the policy of {project} now; try again later\n"
    )


def test_a_configuration_without_the_plugin(inside: Inside, tmp_path: Path) -> None:
    """Installed is not enabled: the command says what to add."""
    gateway = GatewayProcess(tmp_path)
    sections = yaml.safe_load(gateway.config.read_text())
    sections["plugins"] = [item for item in sections["plugins"] if item["use"] != "cleanup"]
    gateway.config.write_text(yaml.safe_dump(sections, sort_keys=False))
    assert inside(gateway, "plan", PRIVATE, fails=True).stderr == (
        f"{gateway.config} does not enable cleanup: add `- use: cleanup` to its plugins\n"
    )


def test_metrics(served: GatewayProcess) -> None:
    """What runs removed and how they ended is counted."""
    repository = f"{PRIVATE}/counted"
    gone = aged("counted", 100)
    served.wire(ALICE).push_image(repository, "v1", gone)
    served.wire(ALICE).put_manifest(repository, "other", index("nothing").manifest)
    served.wire(ALICE).push_image(repository, "kept", aged("kept", 100))
    change(served, PRIVATE, keep_n=None)
    headers = {"PRIVATE-TOKEN": ALICE_API.password}
    wire = Wire(served.base_url)
    listed = wire.send("GET", f"/api/v4/projects/{quote(PRIVATE, safe='')}/registry/repositories", headers=headers)
    number = next(item["id"] for item in listed.json() if item["path"] == repository)
    path = f"/api/v4/projects/{quote(PRIVATE, safe='')}/registry/repositories/{number}/tags?name_regex_delete=v.*"
    wire.send("DELETE", path, headers=headers).expect(202)

    def metric(name: str) -> float | None:
        lines = Wire(served.admin_url).get("/metrics").expect(200).body.decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), None)

    eventually(lambda: tags(served.wire(ALICE), repository) == ["kept"], "the tag is deleted")
    removed = 'registry_gateway_cleanup_removed_tags_total{how="bulk delete"}'
    eventually(lambda: metric(removed) == 1, "it is counted")
    freed = len(gone.config.content) + len(gone.layers[0].content)
    bytes_gone = 'registry_gateway_cleanup_removed_bytes_total{how="bulk delete"}'
    eventually(lambda: metric(bytes_gone) == freed, "and its bytes")
