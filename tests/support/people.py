"""Who and what the tests' directory knows: accounts, tokens, groups and projects."""

from __future__ import annotations

import datetime as dt
from typing import Any

from tests.support.wire import Account

ROOT = Account("root", "root-of-all-tests")
ALICE = Account("alice", "alice-owns-acme")
BOB = Account("bob", "bob-reports")
CAROL = Account("carol", "carol-develops")
DAVE = Account("dave", "dave-maintains")
MALLORY = Account("mallory", "mallory-is-a-stranger")

GINA = Account("gina", "gina-is-a-guest")
"""A guest of `acme`."""

EVE = Account("eve", "eve-is-blocked")

ALICE_API = Account("alice", "pat-alice-api")
ALICE_READ = Account("alice", "pat-alice-read")
ALICE_READ_WRITE = Account("alice", "pat-alice-read-write")
ALICE_EXPIRED = Account("alice", "pat-alice-expires-today")
ALICE_REVOKED = Account("alice", "pat-alice-revoked")
ALICE_NO_REGISTRY = Account("alice", "pat-alice-read-user")
"""An owner's token without a scope of the registry."""
ALICE_READ_API = Account("alice", "pat-alice-read-api")
ALICE_OAUTH = Account("oauth2", "oauth-of-alice")
BOB_API = Account("bob", "pat-bob-api")
CAROL_API = Account("carol", "pat-carol-api")
DAVE_API = Account("dave", "pat-dave-api")
GINA_API = Account("gina", "pat-gina-api")
MALLORY_API = Account("mallory", "pat-mallory-api")
ROOT_API = Account("root", "pat-root-api")
PROJECT_DEVELOPER = Account("project-bot", "project-app-developer")
GROUP_READ = Account("group-bot", "group-acme-read")
JOB = Account("gitlab-ci-token", "job-of-app")
"""A running job of `acme/app`, started by its reporter."""
JOB_OF_DEVELOPER = Account("gitlab-ci-token", "job-of-app-by-carol")
"""A running job of `acme/app`, started by its developer."""
JOB_OF_MAINTAINER = Account("gitlab-ci-token", "job-of-app-by-dave")
"""A running job of `acme/app`, started by its maintainer."""
JOB_FINISHED = Account("gitlab-ci-token", "finished-job-of-app")
JOB_ELSEWHERE = Account("gitlab-ci-token", "job-of-open")
"""A running job of `acme/open`, started by a member of nothing."""
DEPLOY_READ = Account("gitlab+deploy-token-1", "deploy-app-read")
DEPLOY_READ_WRITE = Account("gitlab+deploy-token-2", "deploy-app-read-write")
DEPLOY_ELSEWHERE = Account("gitlab+deploy-token-3", "deploy-open-read-write")
"""A deploy token of `acme/open`."""

PRIVATE = "acme/app"
INTERNAL = "acme/internal"
PUBLIC = "acme/open"
HIDDEN = "acme/secret/vault"

_READ = ["read_registry"]
_READ_WRITE = ["read_registry", "write_registry"]


def directory() -> dict[str, Any]:
    """Write down a small company: in `acme` one of each role, `mallory` a member of nothing, `eve` blocked."""
    people = (ROOT, ALICE, BOB, CAROL, DAVE, MALLORY, GINA, EVE)
    return {
        "users": [
            {
                "username": person.username,
                "password": person.password,
                "admin": person is ROOT,
                "state": "blocked" if person is EVE else "active",
            }
            for person in people
        ],
        "groups": [
            {
                "path": "acme",
                "visibility": "public",
                "members": {
                    "alice": "owner",
                    "bob": "reporter",
                    "carol": "developer",
                    "dave": "maintainer",
                    "gina": "guest",
                },
            },
            {"path": "acme/secret", "visibility": "private"},
            {"path": "conf", "visibility": "private", "members": {"alice": "owner"}},
        ],
        "projects": [
            {"path": PRIVATE, "visibility": "private"},
            {"path": PUBLIC, "visibility": "public"},
            {"path": INTERNAL, "visibility": "internal"},
            {"path": HIDDEN, "visibility": "private"},
            {"path": "conf/project", "visibility": "private"},
            {"path": "conf/other", "visibility": "private"},
        ],
        "tokens": [
            _personal(ALICE_API, ["api"]),
            _personal(ALICE_READ, _READ),
            _personal(ALICE_READ_WRITE, _READ_WRITE),
            {**_personal(ALICE_EXPIRED, ["api"]), "expires_at": dt.datetime.now(dt.UTC).date()},
            {**_personal(ALICE_REVOKED, ["api"]), "revoked": True},
            _personal(ALICE_NO_REGISTRY, ["read_user"]),
            _personal(ALICE_READ_API, ["read_api"]),
            *(_personal(token, ["api"]) for token in (BOB_API, CAROL_API, DAVE_API, GINA_API, MALLORY_API, ROOT_API)),
            {"kind": "oauth_token", "user": ALICE.username, "token": ALICE_OAUTH.password, "scopes": ["api"]},
            {
                "kind": "project_access_token",
                "project": PRIVATE,
                "role": "developer",
                "token": PROJECT_DEVELOPER.password,
                "scopes": _READ_WRITE,
            },
            {
                "kind": "group_access_token",
                "group": "acme",
                "role": "maintainer",
                "token": GROUP_READ.password,
                "scopes": _READ,
            },
            _job(JOB, PRIVATE, BOB),
            _job(JOB_OF_DEVELOPER, PRIVATE, CAROL),
            _job(JOB_OF_MAINTAINER, PRIVATE, DAVE),
            {**_job(JOB_FINISHED, PRIVATE, BOB), "status": "success"},
            _job(JOB_ELSEWHERE, PUBLIC, MALLORY),
            _deploy(DEPLOY_READ, _READ),
            _deploy(DEPLOY_READ_WRITE, _READ_WRITE),
            {**_deploy(DEPLOY_ELSEWHERE, _READ_WRITE), "project": PUBLIC},
        ],
    }


def ci_variables(host: str, project: str, job: Account) -> dict[str, str]:
    """Give a job the variables by which it finds its registry, as GitLab does (semantics 2.4)."""
    return {
        "CI_REGISTRY": host,
        "CI_REGISTRY_IMAGE": f"{host}/{project.lower()}",
        "CI_REGISTRY_USER": job.username,
        "CI_REGISTRY_PASSWORD": job.password,
    }


def _personal(account: Account, scopes: list[str]) -> dict[str, Any]:
    kind = "personal_access_token"
    return {"kind": kind, "user": account.username, "token": account.password, "scopes": scopes}


def _job(account: Account, project: str, user: Account) -> dict[str, Any]:
    return {"kind": "ci_job_token", "project": project, "user": user.username, "token": account.password}


def _deploy(account: Account, scopes: list[str]) -> dict[str, Any]:
    kind = "deploy_token"
    return {"kind": kind, "project": PRIVATE, "username": account.username, "token": account.password, "scopes": scopes}
