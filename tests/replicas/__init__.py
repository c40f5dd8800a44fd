"""Several gateways before one registry, with one database, one Redis and one key, are one registry."""
