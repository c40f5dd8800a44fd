"""The bundled store: blobs content-addressed on a local disk.

Answers ``gateway_backends``, ``gateway_jobs``, ``gateway_lifespan`` and ``gateway_health``.
"""

from plugins.backend_local.plugin import Plugin

__all__ = ["Plugin"]
