"""The application: everything but the plugins.

``gateway/plugins/`` is the socket; ``plugins/`` are the plugs.

* ``cli.py`` reads the command line, ``launcher.py`` starts the workers, ``app.py`` puts one worker together.
* ``config.py`` reads the configuration; ``oci.py`` has the values, ``errors.py`` the refusals.
* ``core/pipeline.py`` is the one path of a request: read ``serve`` first.
* ``core/handlers/`` has one file for each resource of the OCI distribution specification.
* ``core/metadata.py`` is the one schema: repositories, manifests, tags and the blobs that they link.
* ``plugins/hookspecs.py`` has every question that the gateway asks its plugins.
"""

__version__ = "0.1.0"
