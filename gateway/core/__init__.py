"""The engine: one path for a request, one schema, one error renderer."""
