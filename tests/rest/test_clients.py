"""python-gitlab, unmodified, drives every route that it knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gitlab
import pytest

from tests.support.images import image, index
from tests.support.peers import eventually
from tests.support.people import ALICE_API, CAROL_API, INTERNAL, JOB, MALLORY_API, PRIVATE, PUBLIC

if TYPE_CHECKING:
    from gitlab.v4.objects import Project, ProjectRegistryRepository

    from tests.rest.place import Place


def repository_at(project: Project, path: str) -> ProjectRegistryRepository:
    """Find a repository of a project by its path."""
    return next(one for one in project.repositories.list(iterator=True) if one.path == path)


class TestPythonGitlab:
    """One person's script, call by call; what it needs it has pushed itself."""

    def test_it_logs_in(self, place: Place) -> None:
        """``gl.auth()`` reads ``/user``, and the token knows itself."""
        with place.client() as client:
            client.auth()
            assert client.user is not None
            assert client.user.username == "alice"
            me = client.personal_access_tokens.get("self")
            assert (me.scopes, me.active, me.revoked, me.user_id) == (["api"], True, False, client.user.id)

    def test_it_asks_for_the_version(self, place: Place) -> None:
        """``gl.version()`` has the two words that it expects."""
        with place.client() as client:
            version, revision = client.version()
            assert version.count(".") == 2
            assert revision != "unknown"

    def test_it_finds_a_project_by_path_and_by_number(self, place: Place) -> None:
        """``g%2Fp`` and the number are one project."""
        with place.client() as client:
            by_path = client.projects.get(PRIVATE)
            by_number = client.projects.get(by_path.id)
            assert by_number.path_with_namespace == PRIVATE
            assert by_number.container_registry_access_level == "enabled"
            lines = (by_number.permissions["project_access"], by_number.permissions["group_access"])
            assert max(line["access_level"] for line in lines if line) == 50

    def test_it_finds_a_group(self, place: Place) -> None:
        """By path and by number."""
        with place.client() as client:
            group = client.groups.get("acme")
            assert client.groups.get(group.id).full_path == "acme"

    def test_it_hears_that_a_project_is_not_there(self, place: Place) -> None:
        """What a stranger may not know of is as what is not there."""
        with place.client(MALLORY_API) as client:
            for path in (PRIVATE, "acme/nowhere"):
                with pytest.raises(gitlab.GitlabGetError) as refused:
                    client.projects.get(path)
                assert (refused.value.response_code, refused.value.error_message) == (404, "404 Project Not Found")

    def test_it_lists_repositories_with_their_tags(self, place: Place) -> None:
        """``tags=True, tags_count=True``, with a capital."""
        place.push(f"{PRIVATE}/listed", image(b"listed"), "v1", "v2")
        with place.client() as client:
            project = client.projects.get(PRIVATE)
            listed = project.repositories.list(tags=True, tags_count=True, get_all=True)
            found = next(one for one in listed if one.path == f"{PRIVATE}/listed")
            host = place.gateway.host
            assert (found.name, found.project_id, found.tags_count) == ("listed", project.id, 2)
            assert found.location == f"{host}/{PRIVATE}/listed"
            assert found.attributes["tags"] == [
                {"name": tag, "path": f"{PRIVATE}/listed:{tag}", "location": f"{host}/{PRIVATE}/listed:{tag}"}
                for tag in ("v1", "v2")
            ]

    def test_it_lists_a_groups_repositories(self, place: Place) -> None:
        """Over the group's projects."""
        place.push(f"{PUBLIC}/of-group", image(b"of group"), "v1")
        with place.client() as client:
            group = client.groups.get("acme")
            paths = {one.path for one in group.registry_repositories.list(iterator=True)}
            assert f"{PUBLIC}/of-group" in paths

    def test_it_shows_a_repository_with_its_size(self, place: Place) -> None:
        """Layers and configs, what two tags share counted once."""
        content = image(b"sized")
        place.push(f"{PRIVATE}/sized", content, "v1", "v2")
        with place.client() as client:
            number = repository_at(client.projects.get(PRIVATE), f"{PRIVATE}/sized").id
            found = client.registry_repositories.get(number, tags=True, tags_count=True, size=True)
            assert found.size == sum(len(blob.content) for blob in (content.config, *content.layers))
            assert (found.tags_count, [tag["name"] for tag in found.attributes["tags"]]) == (2, ["v1", "v2"])
            assert found.delete_api_path.endswith(f"/registry/repositories/{number}")

    def test_it_hides_how_to_delete_from_who_may_not(self, place: Place) -> None:
        """``delete_api_path`` is for maintainers."""
        place.push(f"{PRIVATE}/not-yours", image(b"not yours"), "v1")
        with place.client(CAROL_API) as client:
            number = repository_at(client.projects.get(PRIVATE), f"{PRIVATE}/not-yours").id
            assert not hasattr(client.registry_repositories.get(number), "delete_api_path")

    def test_it_lists_and_shows_tags(self, place: Place) -> None:
        """The revision is the digest of the config, the size that of the layers."""
        content = image(b"shown")
        place.push(f"{PRIVATE}/shown", content, "v1")
        with place.client() as client:
            repository = repository_at(client.projects.get(PRIVATE), f"{PRIVATE}/shown")
            assert [tag.name for tag in repository.tags.list(iterator=True)] == ["v1"]
            tag = repository.tags.get("v1")
            revision = content.config.digest.removeprefix("sha256:")
            assert (tag.revision, tag.short_revision) == (revision, revision[:9])
            assert tag.digest == content.manifest.digest
            assert tag.total_size == len(content.layers[0].content)

    def test_it_pages_through_tags(self, place: Place) -> None:
        """It follows ``Link`` until there is no next, and reads how many there are."""
        names = [f"t{number:02}" for number in range(25)]
        place.push(f"{PRIVATE}/paged", image(b"paged"), *names)
        with place.client() as client:
            repository = repository_at(client.projects.get(PRIVATE), f"{PRIVATE}/paged")
            pages = repository.tags.list(iterator=True, per_page=10)
            assert (pages.total, pages.total_pages, pages.per_page) == (25, 3, 10)
            assert [tag.name for tag in pages] == names

    def test_it_deletes_one_tag_and_leaves_its_sibling(self, place: Place) -> None:
        """By name: another tag of the same image stays (trap 28)."""
        place.push(f"{PRIVATE}/siblings", image(b"siblings"), "gone", "stays")
        with place.client() as client:
            repository = repository_at(client.projects.get(PRIVATE), f"{PRIVATE}/siblings")
            repository.tags.delete("gone")
            assert [tag.name for tag in repository.tags.list(iterator=True)] == ["stays"]
        place.registry.manifest(f"{PRIVATE}/siblings", "stays").expect(200)
        place.registry.manifest(f"{PRIVATE}/siblings", "gone").expect(404)

    def test_it_orders_a_bulk_deletion_once_an_hour(self, place: Place) -> None:
        """202, and the second time 400 (trap 29)."""
        place.push(f"{PRIVATE}/bulk", image(b"bulk"), "v1")
        with place.client() as client:
            repository = repository_at(client.projects.get(PRIVATE), f"{PRIVATE}/bulk")
            repository.tags.delete_in_bulk("nothing.*", name_regex_keep="v.*", keep_n=1, older_than="2d")
            with pytest.raises(gitlab.GitlabDeleteError) as refused:
                repository.tags.delete_in_bulk("nothing.*")
            assert refused.value.response_code == 400
            assert refused.value.error_message == (
                "This request has already been made. You can run this at most once an hour "
                "for a given container repository"
            )

    def test_it_deletes_a_repository(self, place: Place) -> None:
        """It goes, soon, with what was in it."""
        place.push(f"{INTERNAL}/doomed", image(b"doomed"), "v1")
        with place.client() as client:
            project = client.projects.get(INTERNAL)
            project.repositories.delete(repository_at(project, f"{INTERNAL}/doomed").id)

            def gone() -> bool:
                listed = project.repositories.list(iterator=True)
                return all(one.path != f"{INTERNAL}/doomed" for one in listed)

            eventually(gone, "the repository is gone")
        place.registry.manifest(f"{INTERNAL}/doomed", "v1").expect(404)

    def test_it_keeps_a_registry_level(self, place: Place) -> None:
        """What is saved is what is read, and what counts, before a GitLab once its facts are asked for anew."""
        with place.client() as client:
            project = client.projects.get(INTERNAL)
            project.container_registry_access_level = "disabled"
            project.save()
            assert client.projects.get(INTERNAL).container_registry_access_level == "disabled"
            eventually(lambda: place.registry.get(f"/v2/{INTERNAL}/tags/list").status == 403, "nobody may pull")
            project.container_registry_access_level = "enabled"
            project.save()

    def test_a_job_lists_its_own_projects_images(self, place: Place) -> None:
        """With ``CI_JOB_TOKEN``."""
        place.push(f"{PRIVATE}/of-job", image(b"of job"), "v1")
        with place.client(JOB) as client:
            project = client.projects.get(PRIVATE, lazy=True)
            assert f"{PRIVATE}/of-job" in {one.path for one in project.repositories.list(iterator=True)}

    def test_an_index_has_no_date_and_no_size(self, place: Place) -> None:
        """An index has no config: what comes from it is not there (trap 27), and it has several platforms."""
        place.push(f"{PRIVATE}/index", index("multi"), "multi")
        with place.client(ALICE_API) as client:
            tag = repository_at(client.projects.get(PRIVATE), f"{PRIVATE}/index").tags.get("multi")
            assert (tag.revision, tag.short_revision, tag.created_at, tag.total_size) == (None, None, None, None)
            assert tag.platforms == ["linux/amd64", "linux/arm64"]
