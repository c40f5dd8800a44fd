"""The plugin socket: how plugins are found, checked, built and asked."""
