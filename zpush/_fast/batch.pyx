"""One request to one owner: which jobs are in it, and what becomes of them.

Rules. A batch takes a line's jobs from its front, so that the rest of the line follows only after the batch's
first answer: that alone keeps a client's order when its route turns out stale. PENDING jobs leave the
line but stay with it: until they are settled the line is sent to nobody else. Where the owner is lost they
stand in the line again, in front.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from zpush._fast.job cimport Job
from zpush._fast.lines cimport Line

cdef enum:
    BYTES = 256                  # that an outcome could be


@cython.final
cdef class Batches:
    cdef object entry
    cdef list outcomes           # by number; None where there is none
    cdef int pending, not_here
    cdef Py_ssize_t max_entries, max_bytes

    def __init__(self, entry, outcomes, int pending, int not_here, Py_ssize_t max_entries, Py_ssize_t max_bytes):
        cdef dict by_number = {int(outcome): outcome for outcome in outcomes}
        self.entry = entry
        self.outcomes = [by_number.get(n) for n in range(BYTES)]
        self.pending, self.not_here = pending, not_here
        self.max_entries, self.max_bytes = max_entries, max_bytes

    def fill(self, lines, steps, str node_id not None):
        cdef list made = []
        cdef Batch batch = new(self, steps, node_id)
        cdef Line line
        for line in lines:
            if not batch.take(line):
                made.append(batch)
                batch = new(self, steps, node_id)
                batch.take(line)
        if batch.entries:
            made.append(batch)
        return made

    def of(self, jobs, steps, str node_id not None):
        cdef Batch batch = new(self, steps, node_id)
        cdef Job job
        for job in jobs:
            batch.entries.append(entry_of(self, job))
        return batch

    def conclude(self, jobs, bytes outcomes not None, str node_id not None):
        cdef const unsigned char *said = <const unsigned char *>PyBytes_AS_STRING(outcomes)
        cdef Py_ssize_t index = 0
        cdef Job job
        if PyBytes_GET_SIZE(outcomes) != len(jobs):
            raise ValueError(f"{len(outcomes)} outcomes for {len(jobs)} jobs")
        for job in jobs:
            if said[index] != self.not_here and said[index] != self.pending:
                job.settle(outcome_of(self, said[index]), node_id)
            index += 1


cdef inline object entry_of(Batches how, Job job):
    return how.entry(job.client_id, job.id, job.payload, job.kind, job.expires_ms, job.ack_wait_ms, job.token)


cdef inline object outcome_of(Batches how, int number):
    outcome = how.outcomes[number] if 0 <= number < BYTES else None
    if outcome is None:
        raise ValueError(f"no outcome has the number {number}")
    return outcome


cdef inline Batch new(Batches how, steps, str node_id):
    cdef Batch batch = Batch.__new__(Batch)
    batch.how, batch.steps, batch.node_id = how, steps, node_id
    batch.entries, batch.lines, batch.waiting = [], [], {}
    return batch


@cython.final
cdef class Batch:
    cdef Batches how
    cdef object steps
    cdef readonly str node_id
    cdef readonly list entries
    cdef Py_ssize_t size_bytes
    cdef list lines              # in flight
    cdef dict waiting            # index: (Line, Job), in its owner's write buffer

    cdef bint take(self, Line line) except -1:
        """As much as fits of the line's front. False where nothing fits."""
        cdef Py_ssize_t room = self.how.max_entries - len(self.entries), taken = 0
        cdef list jobs = line.jobs
        cdef Job job
        for job in jobs:
            self.size_bytes += len(job.payload)
            if taken == room or (self.size_bytes > self.how.max_bytes and self.entries):
                break
            self.entries.append(entry_of(self.how, job))
            taken += 1
        if not taken:
            return False
        if taken == len(jobs):
            line.flight, line.jobs = jobs, []
        else:
            line.flight, line.jobs = jobs[:taken], jobs[taken:]
        line.owner = self.node_id
        self.lines.append(line)
        return True

    cpdef wait(self, index, Line line, Job job):
        line.owner = self.node_id
        if line.pending is None:
            line.pending = {}
        line.pending[job] = None
        self.waiting[index] = line, job

    def answered(self, bytes outcomes not None):
        cdef const unsigned char *said = <const unsigned char *>PyBytes_AS_STRING(outcomes)
        cdef list lines = self.lines, moved = [], missed = [], not_here
        cdef Py_ssize_t index = 0
        cdef Line line
        cdef Job job
        if PyBytes_GET_SIZE(outcomes) != len(self.entries):
            raise ValueError(f"{len(outcomes)} outcomes for {len(self.entries)} entries")
        self.lines = []
        for line in lines:
            flight, line.flight = line.flight, ()
            not_here = None
            for job in flight:
                if said[index] == self.how.not_here:
                    not_here = [job] if not_here is None else [*not_here, job]
                elif said[index] == self.how.pending:
                    self.wait(index, line, job)
                else:
                    job.settle(outcome_of(self.how, said[index]), self.node_id)
                index += 1
            if not_here is not None:
                line.take_back(not_here)
                missed.append(line)
            else:
                moved.append(line)
        if moved:
            self.steps.moved(moved)
        if missed:
            self.steps.not_here(missed)

    def settled(self, settled):
        cdef Line line
        cdef Job job
        cdef int outcome
        for index, outcome in settled:
            line, job = self.waiting.pop(index)
            del line.pending[job]
            job.settle(outcome_of(self.how, outcome), self.node_id)
            if not line.pending:
                self.steps.drained(line)

    def failed(self, error):
        cdef list lines = self.lines
        cdef dict waiting = self.waiting
        cdef Line line
        self.lines, self.waiting = [], {}
        for line in lines:
            flight, line.flight = line.flight, ()
            line.take_back(flight)
        for line, job in waiting.values():
            if line.pending and job in line.pending:  # else an earlier batch of this connection took them all back
                line.take_back(list(line.pending))
                line.pending.clear()
                if not line.busy:
                    line.busy = True
                    lines.append(line)
        self.steps.unreachable(self.node_id, lines, error.refused)
