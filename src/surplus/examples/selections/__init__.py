"""Selection rules: scores or embeddings in, a subset of the examples out; a file per published rule."""
