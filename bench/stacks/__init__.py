"""The programs that are measured, each in a module of its own: they do the same with different libraries."""
