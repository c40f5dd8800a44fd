"""The core, unit by unit: values, routing, manifests, tokens, configuration and schema."""
