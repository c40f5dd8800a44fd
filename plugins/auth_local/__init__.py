"""Accounts, tokens, groups and projects from one YAML file: GitLab's semantics without a GitLab."""

from plugins.auth_local.plugin import Plugin

__all__ = ["Plugin"]
