"""A registered version made again from its lineage, and held against the original."""
