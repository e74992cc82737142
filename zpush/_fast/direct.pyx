"""The jobs of one request's direct pushes, and how many have no outcome yet. server/direct.py answers the request.

Rules. Outcomes are counted as they come. A client of whom nobody could say whether it is connected has none and is not
counted: its copy stays as it was.
"""

cimport cython

from zpush._fast.job cimport Job
from zpush._fast.tally cimport Outcomes


cdef class Copies:
    cdef readonly list copies
    cdef Outcomes outcomes
    cdef object pending
    cdef object tell
    cdef Py_ssize_t left

    def __init__(self, Outcomes outcomes not None, pending):
        self.outcomes, self.pending, self.copies = outcomes, pending, []

    def add(self, message, clients, double deadline_s):
        cdef list added = []
        cdef Copy copy
        for client_id in clients:
            copy = Copy.__new__(Copy)
            copy.about(message, client_id)
            copy.deadline_s, copy.request, copy.outcome = deadline_s, self, self.pending
            added.append(copy)
        self.copies += added
        self.left += len(added)
        return added

    def when_settled(self, tell):
        if self.left:
            self.tell = tell
        else:
            tell()


@cython.final
cdef class Copy(Job):
    cdef Copies request
    cdef readonly object outcome

    cpdef settle(self, outcome, str node_id):
        self.outcome = outcome
        self.request.outcomes.add(self.priority, False, outcome, 1)
        one_less(self.request)

    def settle_unknown(self, outcome):
        one_less(self.request)


cdef int one_less(Copies request) except -1:
    request.left -= 1
    if not request.left and request.tell is not None:
        request.tell()
    return 0
