"""The only part of zdisco that imports zmq."""
