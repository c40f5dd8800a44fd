"""Who comes to the REST API, and how they hear no: GitLab's headers, scopes, statuses, words (semantics 2, 6, 16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from aiohttp import web
from pydantic import SecretStr

from gateway.plugins import (
    ANONYMOUS,
    Ability,
    Access,
    Action,
    Answer,
    Asking,
    Client,
    Credential,
    CredentialKind,
    Facts,
    Identity,
    InvalidCredentialError,
    Refusal,
    RegistryError,
    Scheme,
)
from plugins.gitlab_api import asked, errors

PREFIX: Final = "/api/v4/"
WRITING: Final = ("api",)
READING: Final = ("api", "read_api")
_JOB_STEP: Final = "job_token"
"""The step of the rules that a job of another project does not pass."""


@dataclass(slots=True)
class Door:
    """A way into the API, the same for several routes.

    *scopes*: a token needs one of them (None: it may be any token); *jobs*: whether job tokens count at all, elsewhere
    they are nobody; *login*: whether somebody must come; *hidden*: what is said of what the caller may not know of.
    """

    facts: Facts
    scopes: Sequence[str] | None = READING
    jobs: bool = False
    login: bool = False
    hidden: str = errors.NO_PROJECT
    prefix: str = PREFIX

    async def identify(self, request: web.BaseRequest, client: Client) -> Identity:
        """Who asks. ApiError 401 for a bad credential, or none where somebody is needed; 403 for too small a scope."""
        credential = presented(request)
        identity = replace(ANONYMOUS, address=client.address)
        if credential is not None:
            known = await self._known(credential, client)
            job = known.kind is CredentialKind.JOB_TOKEN and not self.jobs
            # Its id says that this nobody is no stranger.
            identity = replace(identity, id=known.id) if job else known
        if identity.anonymous and self.login:
            raise errors.unauthorized()
        if self.scopes is not None and not _opens(identity, self.scopes):
            raise errors.insufficient_scope(" ".join(self.scopes))
        return identity

    async def _known(self, credential: Credential, client: Client) -> Identity:
        try:
            return await self.facts.authenticate(credential, client)
        except InvalidCredentialError as error:
            raise errors.unauthorized(str(error)) from error

    def refusal(self, asking: Asking) -> RegistryError:
        """404 for what the caller may not know of, 403 for what they may not do (trap 30)."""
        return refusal(asking.answers, self.hidden)

    def render(self, error: RegistryError) -> web.StreamResponse:
        """Any refusal or failure, in GitLab's form."""
        return errors.rendered(error)


@dataclass(slots=True)
class Open:
    """The way to what asks for no credential of GitLab's."""

    prefix: str = PREFIX

    async def identify(self, request: web.BaseRequest, client: Client) -> Identity:
        """Nobody, whatever the request shows."""
        del request
        return replace(ANONYMOUS, address=client.address)

    def refusal(self, asking: Asking) -> RegistryError:
        """Never heard: nothing is decided here."""
        return refusal(asking.answers, errors.NOT_FOUND)

    def render(self, error: RegistryError) -> web.StreamResponse:
        """Any refusal or failure, in GitLab's form."""
        return errors.rendered(error)


def presented(request: web.BaseRequest) -> Credential | None:
    """The credential that *request* shows, by GitLab's order. Basic is no way in and is not looked at."""
    said = asked.parameters(request)
    bearer = request.headers.get("Authorization", "").partition(" ")
    shown = (
        (Scheme.PRIVATE_TOKEN, request.headers.get("PRIVATE-TOKEN") or said.get("private_token")),
        (Scheme.BEARER, bearer[2] if bearer[0].lower() == "bearer" else ""),
        (Scheme.JOB_TOKEN, request.headers.get("JOB-TOKEN") or said.get("job_token")),
    )
    for scheme, secret in shown:
        if isinstance(secret, str) and secret.strip():
            return Credential("", SecretStr(errors.sound(secret.strip())), scheme)
    return None


def _opens(identity: Identity, scopes: Sequence[str]) -> bool:
    """Whether the identity's credential has one of *scopes*.

    A source that can't name a token's scopes gives it every ceiling and keeps to them in its own answers.
    """
    if identity.anonymous or identity.kind is CredentialKind.JOB_TOKEN:
        return True
    unnamed = not identity.scopes and Action.ALL in identity.ceiling
    return unnamed or any(scope in identity.scopes for scope in scopes)


def refusal(answers: Sequence[Answer], hidden: str) -> RegistryError:
    """What GitLab says where some of *answers* are not what was needed."""
    short = [answer for answer in answers if answer.missing]
    if any(_is_foreign(answer) for answer in short):
        return errors.forbidden(errors.FOREIGN_JOB)
    if any(Ability.READ in answer.missing for answer in short):
        return errors.missing(hidden)
    return errors.forbidden()


def _is_foreign(answer: Answer) -> bool:
    """Whether a job asks for another project's images. What it may know of that one does not matter (semantics 2.5)."""
    if answer.identity.kind is not CredentialKind.JOB_TOKEN:
        return False
    return Ability.READ in answer.missing or (answer.why is not None and answer.why.code == _JOB_STEP)


async def decided(facts: Facts, identity: Identity, access: Access, hidden: str) -> None:
    """Ask the one decision for what the gateway itself answers. Raises the refusal as a Door says it."""
    answers = await facts.decide(identity, [access])
    if isinstance(answers, Refusal):
        raise errors.said(answers.status, answers.message)
    if any(answer.missing for answer in answers):
        raise refusal(answers, hidden)
