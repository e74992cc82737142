"""The engine in Cython: frames, event streams, timer wheel, client table, and the sockets themselves."""
