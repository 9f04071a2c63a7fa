"""Fault injection into training runs: processes, disks, bits and power."""
