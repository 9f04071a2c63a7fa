"""The conformance suite, importable by people who write plugs."""
