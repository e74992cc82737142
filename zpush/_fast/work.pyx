"""Records under way, from the queue to their last outcome. delivery/processor.py takes and finishes them.

Rules. A record for one client is the job itself. What is under way is counted per priority, in records and in bytes of
payloads. What has ended is collected once a turn; a record whose partition was lost meanwhile is nobody's then.
"""

cimport cython
from libc.stdint cimport int64_t

from zpush._fast.job cimport Job
from zpush._fast.priority cimport PRIORITIES
from zpush._fast.record cimport Record
from zpush._fast.sys cimport now_ms
from zpush._fast.tally cimport Outcomes


@cython.final
cdef class Work(Job):
    cdef UnderWay under_way
    cdef readonly Record record
    cdef public Py_ssize_t left
    cdef public object shares

    @property
    def message(self):
        return self.record.message

    def share(self, str client_id not None):
        cdef Share share = Share.__new__(Share)
        share.about(self.message, client_id)
        share.work = self
        return share

    cpdef settle(self, outcome, str node_id):
        conclude(self, outcome, node_id, self.client_id)

    def settle_all(self, dict counts not None):
        cdef UnderWay under_way = self.under_way
        if self.record.copied and under_way.offline in counts:  # it found nobody
            conclude(self, under_way.offline, "", "")
            return
        under_way.outcomes.count_all(self.priority, self.record.redelivered, counts)
        if under_way.receipts is None:
            self.release()
        else:
            under_way.receipts.write_all(self, counts)

    cpdef release(self):
        self.left -= 1
        if not self.left:
            self.shares = ()
            ended(self.under_way, self)


@cython.final
cdef class Share(Job):
    cdef Work work

    cpdef settle(self, outcome, str node_id):
        conclude(self.work, outcome, node_id, self.client_id)


cdef int conclude(Work work, outcome, str node_id, str client_id) except -1:
    """That the client of a copied record is not here says nothing yet: it may be in any other region."""
    cdef UnderWay under_way = work.under_way
    if outcome is under_way.offline and work.record.copied:
        outcome = under_way.elsewhere
    under_way.outcomes.settle(work.priority, work.record.redelivered, outcome, work.queued_ms)
    if under_way.receipts is None or outcome is under_way.elsewhere:
        work.release()
    else:
        under_way.receipts.write(work, outcome, client_id, node_id)
    return 0


@cython.final
cdef class UnderWay:
    cdef Outcomes outcomes
    cdef object receipts, on_ended, offline, elsewhere, expired
    cdef list works               # by priority: a set
    cdef Py_ssize_t bytes_of[PRIORITIES]
    cdef list done

    def __init__(self, Outcomes outcomes not None, receipts, offline, elsewhere, expired, on_ended):
        self.outcomes, self.receipts, self.on_ended = outcomes, receipts, on_ended
        self.offline, self.elsewhere, self.expired = offline, elsewhere, expired
        self.works, self.done = [set() for _ in range(PRIORITIES)], []

    def __len__(self):
        return sum(map(len, self.works))

    @cython.boundscheck(True)
    def count(self, int priority):
        return len(self.works[priority])

    def payload_bytes(self, int priority):
        return self.bytes_of[priority] if 0 <= priority < PRIORITIES else 0

    def begin(self, records, int64_t max_age_ms):
        cdef int64_t at_ms = now_ms()
        cdef list jobs = [], others = []
        cdef Work work
        for record in records:
            work = begun(self, record)
            if work.expires_ms <= at_ms if work.expires_ms else at_ms - work.queued_ms > max_age_ms:
                conclude(work, self.expired, "", work.client_id)
            elif work.client_id:
                jobs.append(work)
            else:
                others.append(work)
        return jobs, others

    def collect(self):
        cdef list done = self.done, records = []
        cdef Work work
        self.done = []
        for work in done:
            if forget(self, work):
                records.append(work.record)
        return records

    @cython.boundscheck(True)
    def lose(self, int priority, int64_t partition):
        cdef list lost = []
        cdef Work work
        for work in list(self.works[priority]):
            if work.record.partition == partition:
                forget(self, work)
                lost.append(work)
        return lost


cdef Work begun(UnderWay under_way, Record record):
    cdef Work work = Work.__new__(Work)
    work.client_id = record.client_id
    work.id, work.payload, work.kind, work.token = record.id, record.payload, record.kind, record.token
    work.expires_ms, work.queued_ms, work.priority = record.expires_ms, record.queued_ms, record.rank
    work.under_way, work.record, work.left, work.shares = under_way, record, 1, ()
    (<set>under_way.works[work.priority]).add(work)
    under_way.bytes_of[work.priority] += len(work.payload)
    return work


cdef int ended(UnderWay under_way, Work work) except -1:
    under_way.done.append(work)
    if len(under_way.done) == 1:
        under_way.on_ended()
    return 0


cdef bint forget(UnderWay under_way, Work work) except -1:
    """False where that was done before."""
    cdef set works = <set>under_way.works[work.priority]
    if work not in works:
        return False
    works.remove(work)
    under_way.bytes_of[work.priority] -= len(work.payload)
    return True
