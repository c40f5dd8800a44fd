"""One file for each resource of the OCI distribution specification, one function for each of its methods."""

from gateway.core.handlers import blobs, catalog, manifests, referrers, tags, uploads
from gateway.core.handlers.base import Exchange, Handler
from gateway.core.router import Kind

HANDLERS: dict[tuple[Kind, str], Handler] = {
    (Kind.BASE, "GET"): catalog.base,
    (Kind.BASE, "HEAD"): catalog.base,
    (Kind.CATALOG, "GET"): catalog.get,
    (Kind.TAGS, "GET"): tags.get,
    (Kind.TAGS, "HEAD"): tags.get,
    (Kind.MANIFEST, "GET"): manifests.get,
    (Kind.MANIFEST, "HEAD"): manifests.get,
    (Kind.MANIFEST, "PUT"): manifests.put,
    (Kind.MANIFEST, "DELETE"): manifests.delete,
    (Kind.BLOB, "GET"): blobs.get,
    (Kind.BLOB, "HEAD"): blobs.get,
    (Kind.BLOB, "DELETE"): blobs.delete,
    (Kind.UPLOADS, "POST"): uploads.post,
    (Kind.UPLOAD, "GET"): uploads.status,
    (Kind.UPLOAD, "HEAD"): uploads.status,
    (Kind.UPLOAD, "PATCH"): uploads.patch,
    (Kind.UPLOAD, "PUT"): uploads.put,
    (Kind.UPLOAD, "DELETE"): uploads.cancel,
    (Kind.REFERRERS, "GET"): referrers.get,
    (Kind.REFERRERS, "HEAD"): referrers.get,
}

__all__ = ["HANDLERS", "Exchange"]
