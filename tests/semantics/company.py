"""The directory that the tables are about: a project for every row, a person for every column, a token of every sort.

Nothing here says what anybody may do: that is in the tables of the tests.
"""

from __future__ import annotations

import datetime as dt
from itertools import product
from typing import Any

from tests.support.wire import Account

VISIBILITIES = ("public", "internal", "private")
LEVELS = ("enabled", "private", "disabled")

HOME = "mx/home"
"""A private project, and the one that jobs, project tokens and deploy tokens belong to."""
HOME_ID = 4242
CAMEL = "mx/CamelCase"
CAMEL_ID = 77
RAISED = "mx/raised"
"""The group's guest is a developer here."""
LOWERED = "mx/lowered"
"""The group's maintainer is a guest here, as far as this project's own list goes."""
SUB = "mx/sub/app"
"""In a subgroup, whose list says: the reporter is a maintainer, the owner a guest."""
PERSONAL = "homer/proj"
DEEP = "/".join(["deep", *(f"g{number}" for number in range(2, 18)), "p18"])
"""A project of eighteen components."""
UNNAMEABLE = ("mx/_acme", "mx/acme-", "mx/acme_", "_odd/app")
"""Public projects from a time when GitLab took such paths."""
ARCHIVED = {visibility: f"mx/{visibility}-archived" for visibility in VISIBILITIES}

OTHER = {
    name: f"other/{name}"
    for name in (
        "public-enabled",
        "public-private",
        "public-disabled",
        "internal-enabled",
        "internal-private",
        "private-enabled",
        "private-private",
        "private-disabled",
    )
}
"""Another group's projects: without a list of whose jobs may come, with an empty one, and with `HOME` on it."""
ALLOWLISTS: dict[str, list[str] | None] = {"no list": None, "empty list": [], "lists home": [HOME]}


def other(name: str, allowlist: str = "no list") -> str:
    """Name the other group's project of a row, which has such a list."""
    return OTHER[name] + ("" if allowlist == "no list" else f"-{allowlist.replace(' ', '-')}")


# -- people -------------------------------------------------------------------------------------------


def user(name: str) -> Account:
    """Give a user with their password."""
    return Account(name, f"password-of-{name}")


MX_ROLES = {
    "guest": "guest",
    "planner": "planner",
    "external-guest": "guest",
    "external-planner": "planner",
    "reporter": "reporter",
    "external-reporter": "reporter",
    "developer": "developer",
    "maintainer": "maintainer",
    "owner": "owner",
}
OTHER_ROLES = {"courier": "reporter", "lodger": "guest"}
"""Members of the other group alone: they are there so that jobs can be theirs."""
ADMIN = user("admin")
STRANGER = user("stranger")
DEVELOPER = user("developer")
MAINTAINER = user("maintainer")
REPORTER = user("reporter")
HOMER = user("homer")
NAMESAKE = user("namesake")
"""A deploy token has this username too."""
TWO_FACTOR = user("two-factor")
INACTIVE = ("blocked", "ldap_blocked", "blocked_pending_approval", "deactivated", "banned")
STAFF = ("admin", "stranger", "external-stranger", "homer", "namesake", "two-factor", *MX_ROLES, *OTHER_ROLES)


def person(column: str) -> Account | None:
    """Give whoever stands in a column of the matrix."""
    return None if column == "nobody" else user(column)


# -- tokens -------------------------------------------------------------------------------------------

USER_SCOPES = (
    "api",
    "read_api",
    "read_registry",
    "write_registry",
    "read_registry write_registry",
    "read_api write_registry",
    "read_registry read_user",
    "read_user",
    "read_repository write_repository",
    "sudo admin_mode",
    "openid",
    "read_virtual_registry write_virtual_registry",
)
DEPLOY_SCOPES = ("read_registry", "write_registry", "read_registry write_registry", "read_repository")
USER_KINDS = {
    "personal_access_token": {"user": "maintainer"},
    "oauth_token": {"user": "maintainer"},
    "project_access_token": {"project": HOME, "role": "maintainer"},
    "group_access_token": {"group": "mx", "role": "maintainer"},
}
DEPLOY_PLACES = {"project": HOME, "group": "mx", "subgroup": "mx/sub"}
BOT_ROLES = ("guest", "planner", "reporter", "developer", "maintainer", "owner")
STATUSES = (
    "created",
    "waiting_for_resource",
    "preparing",
    "waiting_for_callback",
    "pending",
    "success",
    "failed",
    "canceling",
    "canceled",
    "skipped",
    "manual",
    "scheduled",
)
"""Every status of a job but `running`."""

_TODAY = dt.datetime.now(dt.UTC).date()
ENDS: dict[str, dict[str, Any]] = {
    "expired yesterday": {"expires_at": _TODAY - dt.timedelta(days=1)},
    "expires today": {"expires_at": _TODAY},
    "expires tomorrow": {"expires_at": _TODAY + dt.timedelta(days=1)},
    "revoked": {"revoked": True},
}


def token(kind: str, scopes: str) -> Account:
    """Give a user's or bot's token of a kind, under a username that nobody has."""
    return Account("whoever", f"{kind} {scopes}")


def deploy(place: str, scopes: str) -> Account:
    """Give a deploy token of the project, the group or the subgroup."""
    return Account(f"deploy+{place}-{scopes.replace(' ', '-')}", f"deploy {place} {scopes}")


def bot(kind: str, role: str) -> Account:
    """Give an `api` token of `HOME` or of its group with some role there."""
    return Account("bot", f"{kind} {role}")


def ending(kind: str, end: str) -> Account:
    """Give a token that ends, of any kind but a job's."""
    return Account("ending" if kind == "deploy_token" else "whoever", f"{kind} {end}")


def job(username: str, project: str = HOME, status: str = "running") -> Account:
    """Give the token of a user's job in a project."""
    return Account("gitlab-ci-token", f"job of {username} in {project} {status}")


def of_inactive(kind: str) -> Account:
    """Give the token of a blocked user."""
    return Account("gitlab-ci-token" if kind == "ci_job_token" else "blocked", f"{kind} of blocked")


NAMESAKE_DEPLOY = Account("namesake", "deploy-token-called-namesake")
SHARED = (Account("shared", "of-home"), Account("shared", "of-sub"))
"""Two deploy tokens, of `HOME` and of `SUB`, under one username."""
ADMIN_API = Account("whoever", "api of admin")
DEEP_SUBGROUP_BOT = Account("bot", "api of mx/sub")
JOB_USERS = (
    "stranger",
    "external-stranger",
    "courier",
    "lodger",
    "homer",
    "admin",
    "guest",
    "reporter",
    "developer",
    "maintainer",
)
"""Whose jobs run in `HOME`."""


def directory() -> dict[str, Any]:
    """Write it all down in the format of `auth_local`."""
    return {"users": _users(), "groups": _groups(), "projects": _projects(), "tokens": _tokens()}


def _users() -> list[dict[str, Any]]:
    users = [
        {
            "username": name,
            "password": user(name).password,
            "email": f"{name}@example.com",
            "admin": name == "admin",
            "external": name.startswith("external-"),
            "two_factor": name == "two-factor",
        }
        for name in STAFF
    ]
    return users + [{"username": state, "password": user(state).password, "state": state} for state in INACTIVE]


def _groups() -> list[dict[str, Any]]:
    deep = DEEP.split("/")
    paths = ["_odd", *("/".join(deep[:count]) for count in range(1, len(deep)))]
    return [
        {"path": "mx", "visibility": "public", "members": MX_ROLES},
        {"path": "mx/sub", "visibility": "private", "members": {"reporter": "maintainer", "owner": "guest"}},
        {"path": "other", "visibility": "public", "members": OTHER_ROLES},
        *({"path": path, "visibility": "public"} for path in paths),
    ]


def _projects() -> list[dict[str, Any]]:
    level = "container_registry_access_level"
    projects: list[dict[str, Any]] = [
        {"path": HOME, "visibility": "private", "id": HOME_ID},
        {"path": CAMEL, "visibility": "public", "id": CAMEL_ID},
        {"path": RAISED, "visibility": "private", "members": {"guest": "developer"}},
        {"path": LOWERED, "visibility": "private", "members": {"maintainer": "guest"}},
        {"path": SUB, "visibility": "private"},
        {"path": PERSONAL, "visibility": "private"},
        {"path": DEEP, "visibility": "public"},
        *({"path": path, "visibility": "public"} for path in UNNAMEABLE),
        *({"path": path, "visibility": visibility, "archived": True} for visibility, path in ARCHIVED.items()),
    ]
    for visibility, setting in product(VISIBILITIES, LEVELS):
        projects.append({"path": f"mx/{visibility}-{setting}", "visibility": visibility, level: setting})
    for name, (title, allowlist) in product(OTHER, ALLOWLISTS.items()):
        visibility, setting = name.split("-")
        project = {"path": other(name, title), "visibility": visibility, level: setting}
        projects.append(project if allowlist is None else {**project, "job_token_allowlist": allowlist})
    return projects


def _tokens() -> list[dict[str, Any]]:
    tokens: list[dict[str, Any]] = [
        {"kind": kind, **whose, "token": token(kind, scopes).password, "scopes": scopes.split()}
        for (kind, whose), scopes in product(USER_KINDS.items(), USER_SCOPES)
    ]
    tokens += [
        _deploy(deploy(place, scopes), {"project" if place == "project" else "group": path}, scopes)
        for (place, path), scopes in product(DEPLOY_PLACES.items(), DEPLOY_SCOPES)
    ]
    tokens += [
        {"kind": kind, **USER_KINDS[kind], "role": role, "token": bot(kind, role).password, "scopes": ["api"]}
        for kind, role in product(("project_access_token", "group_access_token"), BOT_ROLES)
    ]
    for end, fields in ENDS.items():
        tokens += [
            {"kind": kind, **whose, "token": ending(kind, end).password, "scopes": ["api"], **fields}
            for kind, whose in USER_KINDS.items()
        ]
        tokens.append({**_deploy(ending("deploy_token", end), {"project": HOME}, "read_registry"), **fields})
    tokens += [
        {"kind": kind, "user": "blocked", "token": of_inactive(kind).password, "scopes": ["api"]}
        for kind in ("personal_access_token", "oauth_token")
    ]
    blocked = {"kind": "ci_job_token", "user": "blocked", "project": HOME}
    return [
        *tokens,
        *_job_tokens(),
        {**blocked, "token": of_inactive("ci_job_token").password},
        {"kind": "personal_access_token", "user": "admin", "token": ADMIN_API.password, "scopes": ["api"]},
        _deploy(NAMESAKE_DEPLOY, {"project": HOME}, "read_registry"),
        _deploy(SHARED[0], {"project": HOME}, "read_registry"),
        _deploy(SHARED[1], {"project": SUB}, "read_registry"),
        {
            "kind": "group_access_token",
            "group": "mx/sub",
            "role": "maintainer",
            "token": DEEP_SUBGROUP_BOT.password,
            "scopes": ["api"],
        },
    ]


def _job_tokens() -> list[dict[str, Any]]:
    own = [*(f"mx/{visibility}-{level}" for visibility, level in product(VISIBILITIES, LEVELS)), *ARCHIVED.values()]
    jobs = [
        *((name, HOME, "running") for name in JOB_USERS),
        *(("stranger", project, "running") for project in own),
        *(("developer", HOME, status) for status in STATUSES),
    ]
    return [
        {"kind": "ci_job_token", "user": name, "project": project, "status": status, "token": job(*each).password}
        for each in jobs
        for name, project, status in [each]
    ]


def _deploy(account: Account, place: dict[str, str], scopes: str) -> dict[str, Any]:
    kind = "deploy_token"
    return {
        "kind": kind,
        **place,
        "username": account.username,
        "token": account.password,
        "scopes": scopes.split(),
    }
