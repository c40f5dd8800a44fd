"""What plugins may import, frozen: a change here is a change for every plugin out there."""

from __future__ import annotations

import pytest

import gateway.plugins

PUBLIC = [
    "ALL_ACTIONS",
    "ANONYMOUS",
    "Access",
    "Action",
    "Backend",
    "ByteRange",
    "Cache",
    "Capability",
    "Chunks",
    "Client",
    "ConfigError",
    "Credential",
    "CredentialKind",
    "DEPLOY_TOKEN_SCOPES",
    "Decision",
    "Deny",
    "Descriptor",
    "Digest",
    "DigestMismatchError",
    "Duration",
    "Endpoint",
    "ErrorCode",
    "Event",
    "Facts",
    "GatewaySpecs",
    "Health",
    "Held",
    "Identity",
    "InvalidCredentialError",
    "JOB_CEILING",
    "Job",
    "Manifest",
    "ManifestDetails",
    "ManifestStore",
    "Metadata",
    "MissingContentError",
    "Model",
    "Names",
    "NoCache",
    "NoUploads",
    "OffsetError",
    "OpenBlob",
    "Progress",
    "Project",
    "Public",
    "Reason",
    "Recalled",
    "Reference",
    "Refusal",
    "RegistryError",
    "RegistryLevel",
    "Remembered",
    "Repository",
    "RepositoryName",
    "RequestFacts",
    "Role",
    "Services",
    "Size",
    "Standing",
    "Step",
    "StorageFullError",
    "TOKEN_SCOPES",
    "Tag",
    "TagPage",
    "TagQuery",
    "Unknown",
    "Unresolved",
    "UploadBusyError",
    "UploadRecords",
    "UploadUnknownError",
    "Upstream",
    "Verdict",
    "Visibility",
    "Visible",
    "ceiling",
    "hookimpl",
    "problems",
    "read_yaml",
]


def test_the_public_names_are_frozen() -> None:
    """No name comes or goes unnoticed."""
    assert sorted(gateway.plugins.__all__) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_can_be_imported(name: str) -> None:
    """Everything that is promised is there."""
    assert getattr(gateway.plugins, name) is not None
