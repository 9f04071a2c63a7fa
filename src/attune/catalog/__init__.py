"""Everything that can be added, one file each. A plug sees only `attune.core`."""
