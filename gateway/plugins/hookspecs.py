"""Every question the gateway asks its plugins. Read this file before any other.

The rules that hold for all of them:

* Start-up hooks and the veto are ``def``; request-time hooks are ``async def``. The loader refuses the other colour.
* None is "no opinion". Answers are matched by type: a stray True is a failure, never a grant.
* Plugins are asked in the order of the configuration. Each call has a time-out (``hook_timeout``).
* An implementation names only the arguments that it uses.
* Raising never grants: the request gets 503 and the log names the plugin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import pluggy

from gateway.oci import Reference, RepositoryName
from gateway.plugins.plans import Cleanup
from gateway.plugins.protocols import Backend
from gateway.plugins.types import (
    Access,
    ApiAnswer,
    ApiCall,
    ApiEndpoint,
    Client,
    Credential,
    Decision,
    Deny,
    Endpoint,
    Event,
    ExpirationPolicy,
    Group,
    Health,
    Identity,
    Job,
    Names,
    Profile,
    Project,
    Refusal,
    RegistryLevel,
    Repository,
    RequestFacts,
    Standing,
    TagPage,
    TagQuery,
    Unknown,
    Unresolved,
    Visible,
)

hookspec = pluggy.HookspecMarker("gateway")
hookimpl = pluggy.HookimplMarker("gateway")


class GatewaySpecs:
    """The questions, in the order of their lives: at start-up, in a request, afterwards."""

    # -- start-up: asked once; a failure stops the gateway ----------------------------------------

    @hookspec
    def gateway_check(self) -> Iterable[str]:  # type: ignore[empty-body]
        """Say what is wrong with the files that your configuration names, one line each with file and place.

        Asked by ``check-config`` and before the first worker starts. All plugins are asked; nobody's answer means that
        all is well.
        """

    @hookspec
    def gateway_lifespan(self) -> AbstractAsyncContextManager[None] | None:
        """Open what you need before the first request; close it after the last.

        Entered in configured order and left in reverse, in every worker. What was entered is always left, also when a
        later plugin fails to start.
        """

    @hookspec
    def gateway_backends(self) -> Mapping[str, Backend] | None:
        """Offer backends by name. Two plugins offering one name is a start-up error; so is no backend at all."""

    @hookspec
    def gateway_endpoints(self) -> Iterable[Endpoint | ApiEndpoint] | None:
        """Offer HTTP endpoints outside ``/v2/``; two for one method and path is a start-up error.

        Each says how its path becomes the Access it needs, or ``Public("why")``. The core checks that before your
        handler runs: an endpoint cannot forget to ask. An ApiEndpoint recognises its callers and says no as its Area
        does; an Endpoint as ``/v2/`` does.
        """

    @hookspec
    def gateway_jobs(self) -> Iterable[Job] | None:
        """Offer periodic jobs. A job never overlaps itself; its failure is logged and counted."""

    # -- facts: asked of the sources of identities and projects ------------------------------------

    @hookspec(firstresult=True)
    async def gateway_project(self, candidates: Sequence[str], identity: Identity | None) -> Project | Unknown | None:
        """Give the facts of the project at the first of *candidates* (lower-case paths) that you know.

        Asked by ``naming`` through ``Services.facts``. The first source that knows one of them answers. Unknown is None
        with the steps that an explanation shows of it. *identity* is who asks (None: the gateway itself), for sources
        that ask elsewhere; the facts must not depend on it.
        """

    @hookspec
    async def gateway_standing(self, identity: Identity, project: Project) -> Standing | None:
        """Say how *identity* stands to *project*. Only the plugin that made the identity is asked; None: a stranger."""

    @hookspec
    async def gateway_projects(self, identity: Identity) -> Sequence[tuple[Project, Standing]] | None:
        """List the projects that *identity* may perhaps see, each with how it stands to it.

        Leave out what is open neither to everybody nor to it: the cost must not grow with what it can't see.
        Of a nobody every source is asked.
        """

    @hookspec
    async def gateway_find_project(self, identity: Identity, key: int | str) -> Project | None:
        """Give the facts of the project that has the number or the path *key*; None where *identity*'s source has none.

        Asked for the REST API, of the identity's own source; of a nobody every source is asked. Whether the caller may
        know of it is decided afterwards. A project has a number here: ``id`` is set.
        """

    @hookspec
    async def gateway_find_group(self, identity: Identity, key: int | str) -> Group | None:
        """Give the facts of the group that has the number or the path *key*, as ``gateway_find_project`` does."""

    @hookspec
    async def gateway_group_standing(self, identity: Identity, group: Group) -> Standing | None:
        """Say how *identity* stands to *group*: the highest role there and in the groups above it. None: a stranger."""

    @hookspec
    async def gateway_group_projects(self, identity: Identity, group: Group) -> Sequence[Project] | None:
        """List every project of *group* and its subgroups. Asked once *identity* may list the group's images."""

    @hookspec
    async def gateway_profile(self, identity: Identity) -> Profile | None:
        """Describe *identity*'s own user, and the token that it came with. Only its source is asked."""

    @hookspec
    async def gateway_relay(self, identity: Identity, call: ApiCall) -> ApiAnswer | None:
        """Pass *call* on to the server that knows *identity*, under its own credential, and give the answer.

        Asked for what the REST API has beside images: users, projects, groups, tokens, the version. None where there is
        no such server: the gateway then answers from the facts.
        """

    @hookspec
    async def gateway_set_registry_level(
        self, identity: Identity, project: Project, level: RegistryLevel
    ) -> RegistryLevel | None:
        """Keep *level* as the project's ``container_registry_access_level``, and give it where it is kept.

        Asked of the project's source, once *identity* may change its settings.
        """

    @hookspec(firstresult=True)
    async def gateway_expiration_policy(self, project: Project) -> ExpirationPolicy | None:
        """Give the project's container expiration policy, if you keep it."""

    @hookspec(firstresult=True)
    async def gateway_set_expiration_policy(
        self, identity: Identity, project: Project, attributes: Mapping[str, object]
    ) -> ExpirationPolicy | None:
        """Change the project's policy by *attributes* (semantics 7.1: those of the REST API), and give it.

        Raises InvalidSettingError with what is wrong. Asked once *identity* may change the project's settings.
        """

    @hookspec(firstresult=True)
    async def gateway_cleanup_rules(self, project: Project) -> Cleanup | None:
        """Say what a run of the project's expiration policy would go by now, enabled or not, if you run policies.

        By these rules a plan is made that is the same wherever it is made. Raises InvalidSettingError where the policy
        makes no sense. Asked once somebody may run it.
        """

    @hookspec(firstresult=True)
    async def gateway_run_cleanup(
        self,
        identity: Identity,
        project: Project,
        confirm: bool,  # noqa: FBT001 - arguments of hooks have no keyword
    ) -> Mapping[str, str] | None:
        """Have the project's expiration policy run soon, if you run policies, and return at once.

        With *confirm* what a run has stopped at goes too. Answer, by repository, the ids of the plans that still wait
        for that. Raises InvalidSettingError where the policy is not enabled. Asked once *identity* may do it.
        """

    # -- a request, in the order it is asked ---------------------------------------------------------

    @hookspec(firstresult=True)
    async def gateway_authenticate(self, credential: Credential, client: Client) -> Identity | Unknown | None:
        """Say who presents *credential*.

        Asked only when a credential was presented; without one the caller is ANONYMOUS. Answer an Identity if it is
        yours and right. Answer None if it is not yours, so that the next plugin is asked; or Unknown, with the steps
        that an explanation shows of it. Raise InvalidCredentialError if it is yours and wrong: nobody else is asked and
        the caller gets 401. If nobody answers it is 401 too. Any other exception means "I could not find out": 503.
        """

    @hookspec(firstresult=True)
    async def gateway_resolve(self, name: RepositoryName, identity: Identity | None) -> Repository | Unresolved | None:
        """Say which repository *name* stands for, or why no project owns it.

        Asked before authorization. Without a project nothing is granted, and the caller can't tell that from a project
        that is hidden, unless the reason is public. *identity* is who asks, to be handed on to ``Services.facts``; the
        answer must not depend on it.
        """

    @hookspec(firstresult=True)
    async def gateway_authorize(self, identity: Identity, accesses: Sequence[Access]) -> Decision | Refusal | None:
        """Say what *identity* may do of *accesses*, all that the request needs or the token asks for.

        The first opinion counts. A Decision has, for each access in order, all that the identity's standing allows and
        the steps that led there. A Refusal (status, code, message) ends the whole request, as GitLab does. The core
        then intersects with what was asked and with the identity's ceiling: nothing here can widen a credential. It
        tells the caller of the steps only what they may know. Nobody's answer grants nothing, raising is 503.

        An access of the type ``project`` or ``group`` is the REST API's: its actions are an Ability's, and so is what
        is allowed of it.
        """

    @hookspec(firstresult=True)
    async def gateway_visible_projects(self, identity: Identity) -> Visible | None:
        """Name the projects whose images *identity* may pull, for the catalog's query. No answer shows nothing."""

    @hookspec
    def gateway_admit_request(self, identity: Identity, request: RequestFacts) -> Deny | None:
        """Veto a request that was authorized: read-only mode, deny list, limits.

        Asked of every plugin for every request under ``/v2/`` and to plugins' endpoints, also under a token, until one
        answers Deny. The token endpoint asks nobody: what its tokens open is asked here. No I/O; it cannot grant.

        A request to the REST API that is about a repository or a tag names it as the same under ``/v2/`` would; one
        about all images of a project or group has that path as its repository.
        """

    @hookspec(firstresult=True)
    async def gateway_choose_backend(self, name: RepositoryName) -> str | None:
        """Name the backend for a repository; None leaves it to the configuration. An unknown name is 503."""

    @hookspec
    async def gateway_admit_manifest(
        self, identity: Identity, name: RepositoryName, references: Sequence[Reference], manifest: bytes
    ) -> Deny | None:
        """Refuse a manifest that was allowed but must not be stored, such as one under a protected tag.

        Every plugin is asked until one answers Deny; raising stores nothing.
        """

    @hookspec(firstresult=True)
    async def gateway_list_tags(self, identity: Identity, name: RepositoryName, query: TagQuery) -> TagPage | None:
        """Answer a page of tags yourself, sorted and bounded as *query* says; None leaves it to the backend.

        The first answer counts. For ``tags/list`` the core refuses a page in another order or over the limit: 503.
        """

    @hookspec
    async def gateway_filter_tags(self, identity: Identity, name: RepositoryName, tags: Names) -> Names | None:
        """Say which of *tags* the caller may see; None is all of them.

        Every plugin is asked and a tag is shown only if all agree; it can hide and never add. A hidden tag can be
        neither pulled nor deleted by name, and a bulk deletion leaves it. Raising shows nothing: 503.
        """

    @hookspec
    async def gateway_filter_repositories(self, identity: Identity, names: Names) -> Names | None:
        """Say which repositories of a catalog page, or of a project, the caller may see; None is all.

        Combined as tags are. For the REST API *identity*'s own source is not asked: it has shown the project.
        """

    # -- afterwards: told, not asked -----------------------------------------------------------------

    @hookspec
    async def gateway_event(self, event: Event) -> None:
        """Something happened. Never delays or changes the response; a failure is logged and counted."""

    @hookspec
    async def gateway_health(self) -> Health | None:
        """Say whether you can do your work now. Asked by the readiness probe, under a time-out; raising is failing."""
