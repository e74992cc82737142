"""Leases, and how their texts are read as this version writes them. registry/lease.py has the definition of these, and
reads all other forms.

Rules. A look-up is a batch, and its leases are of a few nodes: the node id of the lease before is the same object. Many
leases are made and forgotten with every batch: those forgotten last are kept to be made anew.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_Concat, PyUnicode_DecodeASCII
from libc.stdint cimport int64_t
from libc.string cimport memcmp

cdef enum:
    MAX_EPOCH_DIGITS = 15  # as in registry/lease.py

cdef struct parts_t:
    # Borrowed from the value, and as long-lived.
    int64_t epoch
    const char *node
    Py_ssize_t node_size
    const char *user
    Py_ssize_t user_size


@cython.final
@cython.no_gc  # it refers to nothing that could refer to it
@cython.freelist(1000)
cdef class Lease:
    def __init__(self, str client_id not None, str node_id not None, int64_t epoch, str user_id not None=""):
        self.client_id, self.node_id, self.epoch, self.user_id = client_id, node_id, epoch, user_id

    def at_epoch(self, int64_t epoch):
        return made(self.client_id, self.node_id, epoch, self.user_id)

    def __eq__(self, other):
        return isinstance(other, Lease) and fields(self) == fields(<Lease>other)

    def __hash__(self):
        return hash(fields(self))

    def __repr__(self):
        return "Lease(client_id={!r}, node_id={!r}, epoch={!r}, user_id={!r})".format(*fields(self))


cdef Lease made(str client_id, str node_id, int64_t epoch, str user_id):
    """Without a call of the type, which would cost as much again."""
    cdef Lease lease = Lease.__new__(Lease)
    lease.client_id, lease.node_id, lease.epoch, lease.user_id = client_id, node_id, epoch, user_id
    return lease


cdef tuple fields(Lease lease):
    return lease.client_id, lease.node_id, lease.epoch, lease.user_id


def keys_of(str prefix not None, client_ids):
    cdef str client_id
    cdef list found = []
    for client_id in client_ids:
        found.append(PyUnicode_Concat(prefix, client_id))
    return found


def nodes_of(leases):
    cdef set found = set()
    cdef str last = None
    cdef bint all_there = True
    for lease in leases:
        if type(lease) is not Lease:
            all_there = False
        elif (<Lease>lease).node_id is not last:
            last = (<Lease>lease).node_id
            found.add(last)
    return found, all_there


def read(str client_id not None, bytes value not None):
    cdef parts_t parts
    if not take_apart(value, &parts):
        return None
    return made(
        client_id,
        PyUnicode_DecodeASCII(parts.node, parts.node_size, NULL),
        parts.epoch,
        PyUnicode_DecodeASCII(parts.user, parts.user_size, NULL),
    )


def read_all(client_ids, list values not None, otherwise):
    cdef parts_t parts
    cdef const char *known = NULL  # the node id that `node` is made of, in a value that the list keeps
    cdef Py_ssize_t known_size = 0, at = 0
    cdef str node = "", client_id
    cdef list found = []
    if len(values) != len(client_ids):
        raise ValueError(f"{len(values)} values of {len(client_ids)} leases")
    for client_id in client_ids:
        value = values[at]
        at += 1
        if value is None:
            found.append(None)
        elif PyBytes_CheckExact(value) and take_apart(value, &parts):
            if parts.node_size != known_size or memcmp(parts.node, known, known_size) != 0:
                node = PyUnicode_DecodeASCII(parts.node, parts.node_size, NULL)
                known, known_size = parts.node, parts.node_size
            user = PyUnicode_DecodeASCII(parts.user, parts.user_size, NULL)
            found.append(made(client_id, node, parts.epoch, user))
        else:
            found.append(otherwise(client_id, value))
    return found


cdef bint take_apart(bytes value, parts_t *parts) noexcept:
    """Whether it has the usual form."""
    cdef const unsigned char *text = <const unsigned char *>PyBytes_AS_STRING(value)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
    cdef Py_ssize_t at = 2, node, user
    cdef int64_t epoch = 0
    if size < 2 or text[0] != c'1' or text[1] != c' ':
        return False
    while at < size and c'0' <= text[at] <= c'9':
        epoch = epoch * 10 + (text[at] - c'0') if at < 2 + MAX_EPOCH_DIGITS else 0
        at += 1
    if at == 2 or at > 2 + MAX_EPOCH_DIGITS or at == size or text[at] != c' ':
        return False
    node = at = at + 1
    while at < size and c'!' <= text[at] <= c'~':
        at += 1
    if at == node or at == size or text[at] != c' ':
        return False
    user = at = at + 1
    while at < size and c' ' <= text[at] <= c'~':
        at += 1
    if at != size:
        return False
    parts.epoch = epoch
    parts.node, parts.node_size = <const char *>text + node, user - 1 - node
    parts.user, parts.user_size = <const char *>text + user, size - user
    return True
