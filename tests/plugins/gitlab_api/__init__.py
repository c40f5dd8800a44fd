"""The REST API's models."""
