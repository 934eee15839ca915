"""Everything that shows that Patchwarden keeps its word; nothing here is shipped."""
