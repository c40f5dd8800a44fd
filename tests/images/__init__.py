"""The management of images in the core, over every backend: what is listed, deleted, promised and kept."""
