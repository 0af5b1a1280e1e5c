"""The protocol without I/O: attrs and the standard library only."""
