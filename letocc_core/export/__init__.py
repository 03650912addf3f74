"""The network as files for other engines."""
