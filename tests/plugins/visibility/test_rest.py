"""What the REST API may do: the abilities of every cell (semantics 4 and 6), of jobs, and in groups."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.plugins import (
    ANONYMOUS,
    Ability,
    CredentialKind,
    Group,
    Identity,
    Role,
    Standing,
    Visibility,
)
from plugins.visibility import rest
from tests.plugins.visibility.test_matrix import CELLS, ROWS, deploy, job, project, user

LETTERS = {"P": Ability.READ_IMAGES, "T": Ability.DELETE_TAG, "A": Ability.ADMIN_IMAGES}
NOTHING = frozenset[Ability]()
READ = frozenset({Ability.READ})


def seen(row: str, identity: Identity, role: Role | None) -> bool:
    """Say who sees a project: by visibility, as any member, as an admin (notes of section 4)."""
    if row.startswith("public") or identity.admin or role is not None:
        return True
    return row.startswith("internal") and not identity.anonymous and not identity.external


def images(word: str, *, archived: bool = False) -> set[Ability]:
    """Spell the letters of a cell as abilities; W, pushing, is none of the REST API's."""
    letters = word.strip("-").replace("W", "")
    return {LETTERS[letter] for letter in letters if letter == "P" or not archived}


@pytest.mark.parametrize("archived", [False, True], ids=["", "archived"])
@pytest.mark.parametrize(("row", "identity", "role", "word"), CELLS)
def test_cell(row: str, identity: Identity, role: Role | None, word: str, *, archived: bool) -> None:
    """A cell has its letters' abilities; seeing a project follows its visibility, its settings are a maintainer's."""
    found = rest.of_project(identity, project(row, archived=archived), Standing(role))
    expected = images(word, archived=archived)
    if seen(row, identity, role):
        expected.add(Ability.READ)
    if identity.admin or role in {Role.MAINTAINER, Role.OWNER}:
        expected.add(Ability.ADMIN)
    assert found == expected


JOB_AT_HOME = {
    None: "",
    Role.GUEST: "",
    Role.PLANNER: "",
    Role.REPORTER: "P",
    Role.DEVELOPER: "PT",
    Role.MAINTAINER: "PTA",
    Role.OWNER: "PTA",
}


@pytest.mark.parametrize("role", JOB_AT_HOME)
def test_a_job_at_home_has_its_user_s_role(role: Role | None) -> None:
    """In its own project a job's token does what its user's role allows."""
    found = rest.of_project(job(), project("private enabled"), Standing(role, covered=True))
    assert found - {Ability.READ, Ability.ADMIN} == {LETTERS[letter] for letter in JOB_AT_HOME[role]}
    assert (Ability.READ in found) == (role is not None)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("role", [None, Role.GUEST, Role.OWNER])
@pytest.mark.parametrize("external", [False, True], ids=["", "external"])
def test_a_job_elsewhere_only_sees(row: str, role: Role | None, *, external: bool) -> None:
    """In another project a job sees what its user sees, and nothing of the images, whatever its user's role."""
    identity = job(external=external)
    found = rest.of_project(identity, project(row), Standing(role))
    assert found == (READ if seen(row, identity, role) else NOTHING)


OTHERS = [
    pytest.param(deploy(), id="deploy token"),
    pytest.param(replace(user(), kind=CredentialKind.UNKNOWN), id="unknown kind"),
]


@pytest.mark.parametrize("identity", OTHERS)
def test_other_credentials_get_nothing(identity: Identity) -> None:
    """A deploy token, or one of an unknown kind, gets nothing from the REST API, even of what is public."""
    assert rest.of_project(identity, project("public enabled"), Standing(Role.OWNER, covered=True)) == NOTHING
    public = Group("acme", Visibility.PUBLIC, 1)
    assert rest.of_group(identity, public, Standing(Role.OWNER, covered=True)) == NOTHING


# anonymous, signed in, external, guest, planner, reporter, external reporter, owner, admin, member of a project below
GROUP_ROWS = {
    "public": "R R R R R RI RI RI RI R",
    "internal": "- R - R R RI RI RI RI R",
    "private": "- - - R R RI RI RI RI R",
}
GROUP_COLUMNS = (
    ("anonymous", ANONYMOUS, Standing()),
    ("signed in", user(), Standing()),
    ("external", user(external=True), Standing()),
    ("guest", user(), Standing(Role.GUEST)),
    ("planner", user(), Standing(Role.PLANNER)),
    ("reporter", user(), Standing(Role.REPORTER)),
    ("external reporter", user(external=True), Standing(Role.REPORTER)),
    ("owner", user(), Standing(Role.OWNER)),
    ("admin", user(admin=True), Standing()),
    ("member below", user(external=True), Standing(covered=True)),
)
GROUP_CELLS = [
    pytest.param(row, identity, standing, word, id=f"{row} {name}")
    for row, words in GROUP_ROWS.items()
    for (name, identity, standing), word in zip(GROUP_COLUMNS, words.split(), strict=True)
]
WORDS = {"-": NOTHING, "R": READ, "RI": frozenset({Ability.READ, Ability.READ_IMAGES})}


@pytest.mark.parametrize(("row", "identity", "standing", "word"), GROUP_CELLS)
def test_group(row: str, identity: Identity, standing: Standing, word: str) -> None:
    """A group's images are for its reporters and admins; whether it is seen follows visibility and membership."""
    assert rest.of_group(identity, Group("acme", Visibility(row), 1), standing) == WORDS[word]


def test_no_job_lists_a_group() -> None:
    """A job token lists no group's images, whoever runs the job."""
    found = rest.of_group(job(), Group("acme", Visibility.PRIVATE, 1), Standing(Role.OWNER))
    assert found == READ


REFUSED = [
    pytest.param(
        user(), Standing(), "private enabled", Ability.READ, "role", "the guest role in acme/app", id="hidden"
    ),
    pytest.param(
        user(), Standing(Role.GUEST), "private enabled", Ability.READ_IMAGES, "role", "the reporter role", id="guest"
    ),
    pytest.param(
        user(), Standing(Role.REPORTER), "private enabled", Ability.DELETE_TAG, "role", "the developer role", id="tag"
    ),
    pytest.param(
        user(),
        Standing(Role.DEVELOPER),
        "private enabled",
        Ability.ADMIN_IMAGES,
        "role",
        "administering its images needs the maintainer role in acme/app, bob is developer",
        id="administering",
    ),
    pytest.param(ANONYMOUS, Standing(), "public enabled", Ability.ADMIN, "role", "nobody is logged in", id="nobody"),
    pytest.param(
        user(admin=True), Standing(), "public disabled", Ability.READ_IMAGES, "visibility", "is disabled", id="disabled"
    ),
    pytest.param(
        job(), Standing(Role.OWNER), "public enabled", Ability.READ_IMAGES, "job_token", "another project", id="job"
    ),
    pytest.param(
        deploy(), Standing(covered=True), "public enabled", Ability.READ, "kind", "no deploy token", id="deploy token"
    ),
]


@pytest.mark.parametrize(("identity", "standing", "row", "ability", "name", "finding"), REFUSED)
def test_the_step_that_refuses(
    identity: Identity, standing: Standing, row: str, *, ability: Ability, name: str, finding: str
) -> None:
    """One step does not pass, says what is missing, and what would change it."""
    steps = rest.project_verdict(identity, project(row), standing, (ability,)).steps()
    failed = [step for step in steps if not step.passed]
    assert [step.name for step in failed] == [name]
    assert finding in failed[0].finding
    assert failed[0].remedy


def test_the_step_of_an_archived_project() -> None:
    """A developer hears that the project is archived, not of a role."""
    archived = project("private enabled", archived=True)
    steps = rest.project_verdict(user(), archived, Standing(Role.DEVELOPER), (Ability.DELETE_TAG,)).steps()
    assert [step.name for step in steps if not step.passed] == ["archived"]


@pytest.mark.parametrize("role", [Role.REPORTER, None])
def test_the_steps_of_a_group(role: Role | None) -> None:
    """The steps pass where the images may be listed, and else name the role that is missing."""
    group = Group("acme", Visibility.PUBLIC, 1)
    steps = rest.group_verdict(user(), group, Standing(role), (Ability.READ_IMAGES,)).steps()
    failed = [step.finding for step in steps if not step.passed]
    expected = "seeing its images needs the reporter role in acme, bob is not a member"
    assert failed == ([] if role else [expected])


def test_all_steps_pass_where_all_is_granted() -> None:
    """Words that are no ability refuse nothing of their own."""
    found = rest.project_verdict(user(), project("public enabled"), Standing(), (Ability.READ, "fly"))
    assert all(step.passed for step in found.steps())
