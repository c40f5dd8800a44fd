"""The gateway before a GitLab that decides (`auth_gitlab`, mode jwt): the semantics' tables, and what can go wrong."""
