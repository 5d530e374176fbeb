"""Probes of the shims, one process: see `__main__.py`."""
