"""Processes, memory and devices: what every stage may use."""
