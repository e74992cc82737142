"""Clients' lines of waiting messages: how one stands in, has its turn, goes on or is gone. delivery/router.py says why.

Rules. Every message passes here, so only what every message needs is here: what is rare is told to whoever has the
lines. All messages of one client and priority stand in one line, in the order in which they came.
"""

from bisect import insort
from operator import attrgetter

cimport cython
from libc.stdint cimport int64_t

from zpush._fast.job cimport Job
from zpush._fast.lease cimport Lease
from zpush._fast.sys cimport now_ms

cdef object by_order = attrgetter("order")


@cython.freelist(1000)
cdef class Line:
    def __init__(self, str client_id not None, priority, list jobs=None):
        begin(self, client_id, priority, [] if jobs is None else jobs)

    cpdef double until_s(self, Job job):
        return job.end_s if self.blind else job.deadline_s

    cpdef stand(self, Job job):
        if not self.jobs or (<Job>self.jobs[len(self.jobs) - 1]).order < job.order:
            self.jobs.append(job)
        else:
            insort(self.jobs, job, key=by_order)

    cpdef take_back(self, jobs):
        self.jobs += jobs
        self.jobs.sort(key=by_order)


cdef inline Line begin(Line line, str client_id, priority, list jobs):
    line.client_id, line.priority, line.rank, line.jobs = client_id, priority, priority, jobs
    line.flight, line.owner = (), ""
    return line


@cython.final
cdef class Lines:
    cdef public double retry_s
    cdef public double max_age_s
    cdef tuple priorities
    cdef list of_clients          # by priority: {client id: Line}
    cdef list ready               # by priority: [Line]
    cdef int64_t last             # order of the job that came last
    cdef bint told                # that lines are ready
    cdef Py_ssize_t max_payload_bytes
    cdef object expired, rejected, on_ready, on_joined, on_over

    def __init__(
        self, priorities, Py_ssize_t max_payload_bytes, expired, rejected, double retry_s, double max_age_s,
        on_ready, on_joined, on_over,
    ):
        self.priorities = tuple(priorities)
        self.max_payload_bytes, self.expired, self.rejected = max_payload_bytes, expired, rejected
        self.retry_s, self.max_age_s = retry_s, max_age_s
        self.on_ready, self.on_joined, self.on_over = on_ready, on_joined, on_over
        self.clear()

    def clear(self):
        self.of_clients, self.ready = [{} for _ in self.priorities], [[] for _ in self.priorities]

    def __len__(self):
        return sum(map(len, self.of_clients))

    @property
    def waiting(self):
        return any(self.ready)

    @cython.boundscheck(True)
    def get(self, int rank, str client_id):
        return (<dict>self.of_clients[rank]).get(client_id)

    def of(self, Job job not None):
        return line_of(self, job)

    # ---- coming

    def take_in(self, jobs, double now_s, list here=None, Py_ssize_t room=0):
        cdef int64_t at_ms = now_ms()
        cdef Job job
        for job in jobs:
            if 0 < job.expires_ms <= at_ms:
                job.settle(self.expired, "")
                continue
            if len(job.payload) > self.max_payload_bytes:
                job.settle(self.rejected, "")
                continue
            self.last += 1
            job.order = self.last
            if here is None or len(here) >= room or job.client_id in <dict>self.of_clients[job.priority]:
                stand_in(self, job, at_ms, now_s)
            else:
                here.append(job)

    def stand_in(self, Job job not None, double now_s):
        stand_in(self, job, now_ms(), now_s)

    def end_s(self, int64_t expires_ms, int64_t queued_ms, double now_s):
        return end_of(self, expires_ms, queued_ms, now_ms(), now_s)

    # ---- going

    def next(self, Py_ssize_t room):
        cdef list ready, lines = []
        cdef Py_ssize_t taken
        cdef Line line
        self.told = False
        for ready in self.ready:
            taken = 0
            for line in ready:
                if room <= 0:
                    break
                line.seen = (<Job>line.jobs[len(line.jobs) - 1]).order if line.jobs else 0
                room -= len(line.jobs)
                lines.append(line)
                taken += 1
            del ready[:taken]
        return lines

    def sendable(self, list lines not None, str node_id not None):
        cdef list free = [], held_up = []
        cdef Line line
        for line in lines:
            if not line.jobs:
                rest(self, line)
            elif line.pending and line.owner != node_id:
                held_up.append(line)
            else:
                free.append(line)
        return free, held_up

    def moved(self, list lines not None):
        cdef Line line
        for line in lines:
            if line.tries or line.rechecked:
                self.on_over(line)
            rest(self, line)

    def rest(self, Line line not None):
        rest(self, line)


def asked(list lines not None):
    cdef list client_ids = []
    cdef bint again = False
    cdef Line line
    for line in lines:
        client_ids.append(line.client_id)
        again |= line.tries > 0
    return client_ids, again


def by_owner(list lines not None, list leases not None):
    cdef dict owned = {}
    cdef list missed = [], unknown = [], group = None
    cdef str node_id = None  # of the lease before: registry/ makes one object of those that are the same
    cdef int rank = 0
    cdef Py_ssize_t at = 0
    cdef Line line
    if len(leases) != len(lines):
        raise ValueError("not a lease for each line")
    for line in lines:
        lease = leases[at]
        at += 1
        if lease is None:
            line.lease = None
            missed.append(line)
        elif type(lease) is not Lease:
            unknown.append(line)
        else:
            line.lease = lease
            if (<Lease>lease).node_id is not node_id or line.rank != rank:
                node_id, rank = (<Lease>lease).node_id, line.rank
                group = owned.setdefault((node_id, line.priority), [])
            group.append(line)
    return owned, missed, unknown


cdef Line line_of(Lines lines, Job job):
    cdef dict of_clients = <dict>lines.of_clients[job.priority]
    line = of_clients.get(job.client_id)
    if line is None:
        line = begin(Line.__new__(Line), job.client_id, lines.priorities[job.priority], [])
        of_clients[job.client_id] = line
    return <Line>line


cdef int stand_in(Lines lines, Job job, int64_t at_ms, double now_s) except -1:
    cdef Line line = line_of(lines, job)
    cdef double end_s = end_of(lines, job.expires_ms, job.queued_ms, at_ms, now_s)
    if not job.deadline_s:
        job.deadline_s = now_s + lines.retry_s
    elif job.deadline_s < end_s:
        end_s = job.deadline_s
    job.end_s = end_s
    job.deadline_s = min(end_s, job.deadline_s)
    line.stand(job)
    if not line.busy:
        make_ready(lines, line)
    elif line.parked:
        lines.on_joined(line, job)
    return 0


cdef double end_of(Lines lines, int64_t expires_ms, int64_t queued_ms, int64_t at_ms, double now_s) noexcept:
    if expires_ms:
        return now_s + <double>(expires_ms - at_ms) / 1000
    return now_s + lines.max_age_s - <double>(at_ms - queued_ms) / 1000


cdef int make_ready(Lines lines, Line line) except -1:
    line.busy = True
    (<list>lines.ready[line.rank]).append(line)
    if not lines.told:
        lines.told = True
        lines.on_ready()
    return 0


cdef int rest(Lines lines, Line line) except -1:
    if line.jobs:
        return make_ready(lines, line)
    line.busy = False
    if line.tries or line.rechecked:
        lines.on_over(line)
    if not line.pending:
        (<dict>lines.of_clients[line.rank]).pop(line.client_id, None)
    return 0
