"""Reading an existing registry in, asking what it can, and hearing of writes that go past the gateway."""
