"""The plugs: one folder a plugin, each as if it were a distribution of its own. ``gateway/plugins/`` is the socket."""
