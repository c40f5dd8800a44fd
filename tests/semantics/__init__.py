"""GitLab's access rules, transcribed by hand from the semantics and held against a running gateway over the wire."""
