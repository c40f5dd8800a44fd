"""The hardest future users of the hooks, as thin as can be: what does not fit here does not fit the socket."""
