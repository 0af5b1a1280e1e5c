"""The gossip network without I/O."""
