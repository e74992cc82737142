"""What zpush says on the wire, sans-IO: no sockets, no clock, no logging."""
