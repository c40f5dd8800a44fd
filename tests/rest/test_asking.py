"""What a list costs the GitLab before which it is made: the project is decided once, not each of its repositories."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fakes.gitlab import FakeGitLab
from tests.rest.place import Place
from tests.support import people
from tests.support.gateway import GatewayProcess
from tests.support.images import image
from tests.support.people import BOB_API, PRIVATE

if TYPE_CHECKING:
    from pathlib import Path


def test_a_list_asks_about_no_repository(tmp_path: Path) -> None:
    """GitLab has said that it lists the project's images to the caller, and is not asked for a token for each."""
    with FakeGitLab(people.directory()) as fake:
        source = {"use": "auth_gitlab", "url": fake.url, "mode": "jwt", "service_token": fake.service_token}
        gateway = GatewayProcess(tmp_path, sources=[source, {"use": "naming"}, {"use": "visibility"}])
        gateway.start()
        try:
            place = Place(gateway)
            names = [PRIVATE, *(f"{PRIVATE}/{number}" for number in range(3))]
            for name in names:
                place.push(name, image(name.encode()), "v1")
            fake.requests.clear()
            answer = place.get("projects", PRIVATE, "registry", "repositories", per_page=2, account=BOB_API).expect(200)
            assert ([one["path"] for one in answer.json()], answer.header("X-Total")) == (names[:2], "4")
            assert fake.count("/jwt/auth") == 0
            place.get("registry", "repositories", place.recorded()[names[3]], account=BOB_API).expect(200)
            scopes = {value for one in fake.requests for name, value in one.query if name == "scope"}
            # Whether it may be deleted is the project's too.
            assert scopes == {f"repository:{PRIVATE}:delete"}
        finally:
            gateway.end()
