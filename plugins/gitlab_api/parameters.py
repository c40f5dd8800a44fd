"""The parameters of each route, read as the framework below GitLab's API reads them.

Unknown ones are ignored, a text without characters is none but where a text is wanted, and each refusal is GitLab's
sentence. The models are what the OpenAPI document shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from gateway.plugins import RegistryLevel, TagOrder, TagSearch, name_pattern
from plugins.gitlab_api import durations
from plugins.gitlab_api.errors import invalid, sound

MOST_PER_PAGE: Final = 100
_LARGEST: Final = 2**31 - 1
_DIGITS: Final = 10
_TRUE: Final = frozenset(["1", "on", "On", "ON", "t", "true", "True", "TRUE", "T", "y", "yes", "Yes", "YES", "Y"])
_FALSE: Final = frozenset(["0", "off", "Off", "OFF", "f", "false", "False", "FALSE", "F", "n", "no", "No", "NO", "N"])
"""What Grape takes for a boolean (dry-types, ``Coercions::Params``)."""
_SAID: Final = "grape"
"""The kind of an error whose message is GitLab's already."""

M = TypeVar("M", bound="Parameters")


def _wrong(how: str) -> PydanticCustomError:
    return PydanticCustomError(_SAID, how)


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value) if isinstance(value, str | int) else ""
    if text not in _TRUE | _FALSE:
        raise _wrong("is invalid")
    return text in _TRUE


def _integer(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        text = value.strip() if isinstance(value, str) else ""
        digits = text.removeprefix("-").removeprefix("+")
        if not (digits.isascii() and digits.isdecimal()) or len(text) - len(digits) > 1:
            raise _wrong("is invalid")
        number = int(text) if len(digits) <= _DIGITS else _LARGEST + 1
    if abs(number) > _LARGEST:
        raise _wrong("does not have a valid value")
    return number


def _pattern(value: str) -> str:
    try:
        name_pattern(value)
    except ValueError as error:
        raise _wrong("is an invalid regexp") from error
    return value


def _duration(value: str) -> str:
    try:
        durations.seconds(value)
    except ValueError as error:
        raise _wrong("is invalid") from error
    return value


def _positive(value: int) -> int:
    if value < 1:
        raise _wrong("does not have a valid value")
    return value


def _not_negative(value: int) -> int:
    if value < 0:
        raise _wrong("does not have a valid value")
    return value


Boolean = Annotated[bool, BeforeValidator(_boolean)]
Integer = Annotated[int, BeforeValidator(_integer)]
Pattern = Annotated[str, AfterValidator(_pattern)]
PageNumber = Annotated[
    Integer, AfterValidator(_positive), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": _LARGEST})
]


class Parameters(BaseModel):
    """What a request says beside its path; whatever else it says is ignored, as GitLab does."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            raise _wrong("is invalid")
        for value in given.values():
            if isinstance(value, str):
                sound(value)
        return cls.told(given)

    @classmethod
    def told(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Without what has no characters: Grape makes nil of it, and nil is what was not said."""
        return {name: value for name, value in given.items() if value not in ("", None)}


def read(model: type[M], given: Mapping[str, Any]) -> M:
    """The parameters that *given* has. Raises ApiError 400 with everything that is wrong."""
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        raise invalid(", ".join(dict.fromkeys(_sentence(one) for one in error.errors()))) from error


def _sentence(error: ErrorDetails) -> str:
    name = "".join(str(part) if not at else f"[{part}]" for at, part in enumerate(error["loc"]))
    if error["type"] == _SAID:
        return f"{name} {error['msg']}".strip()
    if error["type"] in {"literal_error", "enum"}:
        return f"{name} does not have a valid value"
    return f"{name} {'is missing' if error['type'] == 'missing' else 'is invalid'}"


# -- reading --------------------------------------------------------------------------------------------


class Paged(Parameters):
    """A page of a list."""

    page: PageNumber = Field(default=1, description="The page, from 1.")
    per_page: PageNumber = Field(default=20, description="Entries of a page; more than 100 is 100.")

    @property
    def limit(self) -> int:
        """Entries of a page."""
        return min(self.per_page, MOST_PER_PAGE)

    @property
    def offset(self) -> int:
        """Entries before the page."""
        return (self.page - 1) * self.limit


class ListRepositories(Paged):
    """Which page of repositories, and how much of each."""

    tags: Boolean = Field(default=False, description="With the tags of each.")
    tags_count: Boolean = Field(default=False, description="With the number of tags of each.")


class ShowRepository(Parameters):
    """How much of one repository."""

    tags: Boolean = Field(default=False, description="With its tags.")
    tags_count: Boolean = Field(default=False, description="With the number of its tags.")
    size: Boolean = Field(default=False, description="With the bytes of its layers and configs, each counted once.")


Sort = Literal["asc", "desc", "name", "-name", "created", "-created", "size", "-size", "pushed", "-pushed"]
_ORDERS: Final[Mapping[str, TagOrder]] = {"created": "created", "size": "size", "pushed": "pushed"}


class ListTags(Paged):
    """Which page of tags, in which order, and how much of each."""

    pagination: Literal["keyset", "offset"] = Field(
        default="offset", description="keyset: from `last` on, without a total; the next page is in `Link`."
    )
    last: str | None = Field(default=None, description="keyset: the name of the last tag of the page before.")
    sort: Sort = Field(
        default="asc",
        description="By name, up or down. Ours: another order, which keyset does not have; - is downwards.",
    )
    search: str = Field(default="", description="Ours: part of the name, in any case.")
    platform: str | None = Field(default=None, description="Ours: only images for it, such as linux/arm64.")
    pushed_by: str | None = Field(default=None, description="Ours: only what this user pushed last.")
    with_details: Boolean = Field(default=False, description="Ours: with digest, dates, size, platforms and pusher.")

    @model_validator(mode="after")
    def _keyset_by_name(self) -> Self:
        if self.keyset and self.order != "name":
            raise _wrong("sort does not have a valid value")
        return self

    @property
    def keyset(self) -> bool:
        """Whether pages are counted by name."""
        return self.pagination == "keyset"

    @property
    def order(self) -> TagOrder:
        """What tags are sorted by."""
        return _ORDERS.get(self.sort.removeprefix("-"), "name")

    @property
    def tag_search(self) -> TagSearch:
        """The page in the core's words; of keyset one tag more, which says whether another page follows."""
        return TagSearch(
            search=self.search,
            order=self.order,
            descending=self.sort == "desc" or self.sort.startswith("-"),
            platform=self.platform,
            pushed_by=self.pushed_by,
            offset=0 if self.keyset else self.offset,
            limit=self.limit + 1 if self.keyset else self.limit,
            after=self.last if self.keyset else None,
            dated=self.with_details,
        )


# -- changing -------------------------------------------------------------------------------------------


class BulkDelete(Parameters):
    """Which tags of a repository go (semantics 7.2); the one called ``latest`` never does."""

    name_regex_delete: Pattern | None = Field(
        default=None, description="RE2: the names that go; .* is all. Needed, unless `name_regex` is there."
    )
    name_regex: Pattern | None = Field(default=None, description="Deprecated: as `name_regex_delete`, which wins.")
    name_regex_keep: Pattern | None = Field(default=None, description="RE2: the names that stay all the same.")
    keep_n: Annotated[Integer, AfterValidator(_not_negative)] | None = Field(
        default=None, description="So many of the newest stay.", json_schema_extra={"minimum": 0}
    )
    older_than: Annotated[str, AfterValidator(_duration)] | None = Field(
        default=None, description="Only what is older: 1h, 2d, 1 day, 1month."
    )

    @classmethod
    def told(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """An empty pattern stays one: nothing goes by it."""
        patterns = {name: given[name] for name in ("name_regex_delete", "name_regex") if given.get(name) == ""}
        return super().told(given) | patterns

    @model_validator(mode="after")
    def _some_names(self) -> Self:
        if self.name_regex_delete is None and self.name_regex is None:
            raise _wrong("name_regex, name_regex_delete are missing, at least one parameter must be provided")
        return self

    @property
    def payload(self) -> Mapping[str, Any]:
        """What the task that does it is told. *older_than* is in seconds there."""
        return {
            "name_regex_delete": self.name_regex_delete if self.name_regex_delete is not None else self.name_regex,
            "name_regex_keep": self.name_regex_keep,
            "keep_n": self.keep_n,
            "older_than": durations.seconds(self.older_than) if self.older_than is not None else None,
        }


class PolicyAttributes(Parameters):
    """What is to change in a project's container expiration policy (semantics 7.1)."""

    cadence: str | None = Field(default=None, description="How often it runs: 1d, 7d, 14d, 1month or 3month.")
    enabled: Boolean | None = Field(default=None, description="Whether it runs at all.")
    keep_n: Integer | None = Field(default=None, description="So many of the newest stay: 1, 5, 10, 25, 50, 100.")
    older_than: str | None = Field(default=None, description="Only what is older goes: 7d, 14d, 30d or 90d.")
    name_regex: str | None = Field(default=None, description="RE2: the names that go.")
    name_regex_delete: str | None = Field(default=None, description="RE2: the names that go; wins over `name_regex`.")
    name_regex_keep: str | None = Field(default=None, description="RE2: the names that stay all the same.")

    @classmethod
    def told(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing unsets: `keep_n=` is no limit."""
        return {name: None if value == "" else value for name, value in given.items()}

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Those that the request names, `name_regex_delete` as `name_regex`."""
        named = self.model_dump(exclude_unset=True)
        if "name_regex_delete" in named:
            named["name_regex"] = named.pop("name_regex_delete")
        return named


class ChangeProject(Parameters):
    """What is to change in a project's settings for images."""

    container_registry_access_level: Literal["disabled", "private", "enabled"] | None = Field(
        default=None, description="Who may use the images: nobody, members from reporter on, or everyone with access."
    )
    container_registry_enabled: Boolean | None = Field(
        default=None, description="Deprecated: `container_registry_access_level`, which wins, is enabled or disabled."
    )
    container_expiration_policy_attributes: PolicyAttributes | None = Field(
        default=None, description="The cleanup policy."
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.level is None and self.container_expiration_policy_attributes is None:
            names = ", ".join(type(self).model_fields)
            raise _wrong(f"{names} are missing, at least one parameter must be provided")
        return self

    @property
    def level(self) -> RegistryLevel | None:
        """The registry level that is asked for."""
        if self.container_registry_access_level is not None:
            return RegistryLevel(self.container_registry_access_level)
        if self.container_registry_enabled is None:
            return None
        return RegistryLevel.ENABLED if self.container_registry_enabled else RegistryLevel.DISABLED
