# Priorities as numbers, by which C indexes: protocol.message.Priority.

cdef enum:
    PRIORITIES = 3

cdef inline int rank_of(priority) except -1:
    cdef int rank = priority
    if not 0 <= rank < PRIORITIES:
        raise ValueError(f"no priority {rank}")
    return rank
