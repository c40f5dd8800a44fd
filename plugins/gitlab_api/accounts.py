"""The routes around images: users, tokens, projects, groups, the version.

Before a GitLab they are passed on to it, under the caller's own token, and it decides. Where there is none the gateway
answers from the facts, after the one decision.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import unquote_plus

from aiohttp import web

from gateway.plugins import (
    Ability,
    Access,
    ApiAnswer,
    ApiCall,
    Asking,
    ExpirationPolicy,
    InvalidSettingError,
    Profile,
    Project,
)
from plugins.gitlab_api import asked, errors, models
from plugins.gitlab_api.area import PREFIX, decided
from plugins.gitlab_api.lent import Lent, one
from plugins.gitlab_api.parameters import ChangeProject, PolicyAttributes, read

GITLAB: Final = "14.10.0"
"""The GitLab whose API is the least that is here."""
_CREDENTIALS: Final = (
    "private_token",
    "job_token",
    "access_token",
    "bearer_token",
    "oauth_token",
    "deploy_token",
    "feed_token",
    "rss_token",
    "token",
)
"""The parameters in which GitLab looks for a credential, in the query and in the body alike."""
_BETWEEN: Final = re.compile("([&;])")
"""What separates two parameters for GitLab; for the gateway the first alone does."""
_HEADS: Final = re.compile(r"content-(?:disposition|id).*?(?:\r\n\r\n|\Z)", re.IGNORECASE | re.DOTALL)
"""The headers that name the parts of a form (RFC 7578)."""
_NAMED: Final = re.compile(rf"(?<!\w)(?:{'|'.join(_CREDENTIALS)})(?!\w)")
_IN_BODY: Final = "400 Bad request - a credential goes into a header, not into the body"
_NO_TOKEN: Final = "400 Bad request - This endpoint requires token type to be a personal access token"  # noqa: S105 - words
_LEVEL_NOT_KEPT: Final = "container_registry_access_level can't be changed here: nobody keeps it for this project"
_POLICY_NOT_KEPT: Final = (
    "container_expiration_policy_attributes can't be changed here: no plugin that keeps cleanup policies is enabled"
)


class Accounts:
    """Shows who asks and what they may know of, and changes a project's settings."""

    def __init__(self, lent: Lent) -> None:
        self._lent = lent
        self._facts = lent.services.facts

    # -- who ------------------------------------------------------------------------------------------

    async def user(self, asking: Asking) -> web.StreamResponse:
        """The caller's user."""
        passed = await self._passed_on(asking)
        return one(_user(await self._profile(asking))) if passed is None else passed

    async def token(self, asking: Asking) -> web.StreamResponse:
        """The token that the caller came with."""
        passed = await self._passed_on(asking)
        if passed is not None:
            return passed
        token = (await self._profile(asking)).token
        if token is None:
            raise errors.said(HTTPStatus.BAD_REQUEST, _NO_TOKEN)
        return one(models.Token.model_validate(dict(token)))

    async def _profile(self, asking: Asking) -> Profile:
        profile = await self._facts.profile(asking.identity)
        if profile is None:
            raise errors.missing()
        return profile

    async def version(self, asking: Asking) -> web.StreamResponse:
        """The GitLab whose API this is, or the one behind."""
        passed = await self._passed_on(asking)
        ours = f"registry-gateway {version('registry-gateway')}"
        return one(models.Version(version=GITLAB, revision=ours)) if passed is None else passed

    # -- what -----------------------------------------------------------------------------------------

    async def group(self, asking: Asking) -> web.StreamResponse:
        """A group."""
        passed = await self._passed_on(asking)
        if passed is not None:
            return passed
        group = await self._facts.find_group(asking.identity, asked.key(asking.parts["id"]))
        if group is None:
            raise errors.missing(errors.NO_GROUP)
        access = Access("group", group.path.lower(), (Ability.READ,), group=group)
        await decided(self._facts, asking.identity, access, errors.NO_GROUP)
        name = group.path.rpartition("/")[2]
        return one(
            models.GroupAnswer(
                id=group.id,
                name=group.name or name,
                path=name,
                full_path=group.path,
                full_name=group.path.replace("/", " / "),
                visibility=group.visibility,
            )
        )

    async def project(self, asking: Asking) -> web.StreamResponse:
        """A project."""
        passed = await self._passed_on(asking)
        return await self._shown(asking, await self._found(asking, Ability.READ)) if passed is None else passed

    async def change_project(self, asking: Asking) -> web.StreamResponse:
        """Change who may use a project's images, and which of them go by themselves."""
        body = await asking.read(asked.MAX_BODY)
        passed = await self._passed_on(asking, body)
        if passed is not None:
            return passed
        project = await self._found(asking, Ability.READ, Ability.ADMIN)
        given = asked.decoded(body, asking.request.headers.get("Content-Type"))
        wanted = read(ChangeProject, asked.parameters(asking.request) | given)
        if wanted.container_expiration_policy_attributes is not None:
            await self._change_policy(asking, project, wanted.container_expiration_policy_attributes)
        if wanted.level is not None and not await self._facts.set_registry_level(
            asking.identity, project, wanted.level
        ):
            raise errors.said(HTTPStatus.BAD_REQUEST, _LEVEL_NOT_KEPT)
        return await self._shown(asking, await self._found(asking, Ability.READ))

    async def _change_policy(self, asking: Asking, project: Project, wanted: PolicyAttributes) -> None:
        try:
            kept = await self._facts.set_expiration_policy(asking.identity, project, wanted.attributes)
        except InvalidSettingError as error:
            raise errors.said(HTTPStatus.BAD_REQUEST, _of_policy(str(error))) from error
        if kept is None:
            raise errors.said(HTTPStatus.BAD_REQUEST, _POLICY_NOT_KEPT)

    async def _found(self, asking: Asking, *abilities: Ability) -> Project:
        """The project that the path names, if the caller has *abilities* there."""
        project = await self._facts.find_project(asking.identity, asked.key(asking.parts["id"]))
        if project is None:
            raise errors.missing(errors.NO_PROJECT)
        access = Access("project", project.path.lower(), abilities, project=project)
        await decided(self._facts, asking.identity, access, errors.NO_PROJECT)
        return project

    async def _shown(self, asking: Asking, project: Project) -> web.StreamResponse:
        more = dict[str, Any]()
        policy = await self._facts.expiration_policy(project)
        if policy is not None:
            more["container_expiration_policy"] = _policy(policy)
        if not asking.identity.anonymous:
            role = (await self._facts.standing(asking.identity, project)).role
            access = models.MemberAccess(access_level=role.level) if role is not None else None
            more["permissions"] = models.Permissions(project_access=access, group_access=None)
        return one(models.ProjectAnswer.of(project, self._lent.host(asking), **more))

    # -- before a GitLab ------------------------------------------------------------------------------

    async def _passed_on(self, asking: Asking, body: bytes = b"") -> web.Response | None:
        """What the GitLab that knows the caller answers; None where there is none.

        GitLab must take nobody for another than who was recognised here: it is shown no credential but theirs.
        """
        request = asking.request
        path, _, query = request.raw_path.partition("?")
        content_type = request.headers.get("Content-Type", "")
        if _holds_credential(body, content_type):
            raise errors.said(HTTPStatus.BAD_REQUEST, _IN_BODY)
        kept = _without_credentials(query)
        call = ApiCall(
            "GET" if request.method == "HEAD" else request.method,
            path.removeprefix(PREFIX) + (f"?{kept}" if kept else ""),
            body,
            content_type,
        )
        answer = await self._facts.relay(asking.identity, call)
        return _as_it_came(answer) if answer is not None else None


def _without_credentials(query: str) -> str:
    parts = _BETWEEN.split(query)
    pairs = zip(["&", *parts[1::2]], parts[::2], strict=True)
    return "".join(between + one for between, one in pairs if not _is_credential(unquote_plus(one.partition("=")[0])))[
        1:
    ]


def _is_credential(name: str) -> bool:
    """Whether GitLab's framework reads a parameter of that *name*, brackets and spaces around it or not, as one."""
    return name.strip().lstrip("[]").replace("]", "[").partition("[")[0].strip() in _CREDENTIALS


def _holds_credential(body: bytes, content_type: str) -> bool:
    """Whether a body has a parameter that is a credential.

    Raises ApiError: 400 for what can't be read, 415 for a form that GitLab does not take either.
    """
    kind = content_type.lower()
    if kind.startswith("multipart/"):
        # There are too many ways to write a part's name: any mention in its headers counts.
        heads = "".join(_HEADS.findall(body.decode("latin-1")))
        return _NAMED.search(unquote_plus(heads.replace("\\", ""))) is not None
    if kind.startswith("application/x-www-form-urlencoded"):
        names = (one.partition("=")[0] for one in _BETWEEN.split(body.decode("latin-1")))
        return any(_is_credential(unquote_plus(name)) for name in names)
    return any(_is_credential(name) for name in asked.decoded(body, content_type or None))


def _as_it_came(answer: ApiAnswer) -> web.Response:
    headers = {"Content-Type": "application/json", **answer.headers}
    return web.Response(status=answer.status, body=answer.body, headers=headers)


def _user(profile: Profile) -> models.User:
    more: dict[str, Any] = {"email": profile.email} if profile.email is not None else {}
    if profile.admin:
        more["is_admin"] = True
    return models.User(
        id=profile.id,
        username=profile.username,
        name=profile.name,
        state=profile.state,
        avatar_url=None,
        web_url=None,
        external=profile.external,
        bot=profile.bot,
        **more,
    )


def _policy(policy: ExpirationPolicy) -> models.Policy:
    return models.Policy(
        cadence=policy.cadence,
        enabled=policy.enabled,
        keep_n=policy.keep_n,
        older_than=policy.older_than,
        name_regex=policy.name_regex,
        name_regex_keep=policy.name_regex_keep,
        next_run_at=policy.next_run_at,
    )


def _of_policy(sentence: str) -> str | Mapping[str, list[str]]:
    """What is wrong with a policy, as GitLab says it where *sentence* begins with the name of a setting."""
    field, _, wrong = sentence.partition(" ")
    if field not in PolicyAttributes.model_fields:
        return sentence
    return {f"container_expiration_policy.{field}": [wrong]}
