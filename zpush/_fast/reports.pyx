"""Kafka's reports about the messages of one call, counted; queue/kafka_producer.py makes and sends them.

Rules. Reports come in the thread that polls, in any order. A message has a Report of its own, so that a failure is that
message's and no other's: of a record that failed librdkafka tells no headers, and its key and value need not be unique.
"""

cimport cython


cdef class Reports:
    cdef Py_ssize_t reported
    cdef Py_ssize_t awaited  # -1 until it is known how many there will be

    def __cinit__(self, *_):
        self.awaited = -1

    def expect(self, Py_ssize_t count):
        self.awaited = count
        return self.reported == count

    def failed(self, index, error, record):
        raise NotImplementedError

    def complete(self):
        raise NotImplementedError


@cython.final
@cython.no_gc  # nothing that it refers to could refer to it
@cython.freelist(1000)
cdef class Report:
    cdef Reports reports
    cdef Py_ssize_t index

    def __cinit__(self, Reports reports not None, Py_ssize_t index):
        self.reports, self.index = reports, index

    def __call__(self, error, record):
        cdef Reports reports = self.reports
        if error is not None:
            reports.failed(self.index, error, record)
        reports.reported += 1
        if reports.reported == reports.awaited:
            reports.complete()
