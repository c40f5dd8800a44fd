"""A distribution that the gateway has never heard of, built and installed by the tests."""
