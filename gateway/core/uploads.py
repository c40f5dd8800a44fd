"""Upload sessions: what a Location says, sealed, so that any worker or replica can go on with it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.core.keys import Sealer
from gateway.core.router import Route
from gateway.core.tokens import Claims
from gateway.oci import Action, RepositoryName
from gateway.plugins import Identity, Progress


@dataclass(frozen=True, slots=True)
class Session:
    """One upload: its id, when it began (seconds, UTC), for whom, under which token, and where the backend holds it.

    *token* is the id of the live token that it was last used with, empty for callers without one.
    """

    id: str
    began: float
    owner: str
    token: str
    progress: Progress


class Sessions:
    """Makes and opens the sealed part of upload Locations.

    A Location is no credential: whoever presents one must be allowed to push to its repository, and a token that has
    expired goes on only with the uploads that it was used with, for *ceiling* seconds after they began.
    """

    def __init__(self, sealer: Sealer, ceiling: float, clock: Callable[[], float] = time.time) -> None:
        self._sealer = sealer
        self._ceiling = ceiling
        self._clock = clock

    def begin(self, identity: Identity, claims: Claims | None) -> Session:
        """A new session; its upload has not begun yet."""
        return Session(str(uuid.uuid4()), self._clock(), owner(identity), _token(claims), Progress("", 0))

    def seal(self, session: Session, name: RepositoryName) -> str:
        """The last part of the Location: the upload's UUID in the open, and the session sealed behind it."""
        text = json.dumps(
            [session.began, session.owner, session.token, session.progress.state, session.progress.offset],
            separators=(",", ":"),
        )
        return f"{session.id}.{self._sealer.seal(text.encode(), f'{name} {session.id}')}"

    def open(self, sealed: str, name: RepositoryName) -> Session | None:
        """The session of a Location, or None where it is not ours or belongs to another repository."""
        key, _, secret = sealed.partition(".")
        text = self._sealer.open(secret, f"{name} {key}")
        if text is None:
            return None
        began, who, token, state, offset = json.loads(text)
        return Session(key, began, who, token, Progress(state, offset))

    def outlives(self, claims: Claims, route: Route) -> bool:
        """Whether the upload of *route* may go on under *claims*, whose token has expired."""
        if route.name is None:
            return False
        session = self.open(route.session, route.name)
        return (
            session is not None
            and session.token == claims.token_id
            and session.owner == owner(claims.identity)
            and Action.PUSH in claims.granted(f"repository:{route.name}")
            and self._clock() < session.began + self._ceiling
        )

    def moved(self, session: Session, progress: Progress, claims: Claims | None) -> Session:
        """The session after more bytes, bound to the token that brought them if that is still alive."""
        live = claims is None or claims.expires > self._clock()
        return replace(session, progress=progress, token=_token(claims) if live else session.token)


def owner(identity: Identity) -> str:
    """Who an upload belongs to, in one word for comparing."""
    return f"{identity.source}/{identity.kind}/{identity.id}"


def _token(claims: Claims | None) -> str:
    return claims.token_id if claims else ""
