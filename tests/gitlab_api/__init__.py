"""The gateway before a GitLab whose REST API gives the facts (`auth_gitlab`, mode api): the tables of the semantics."""
