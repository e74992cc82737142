"""Reads leases' texts as this version writes them. registry/lease.py has the definition, and reads all other forms.

Rules. A look-up is a batch, and its leases are of a few nodes: the node id of the lease before is the same object, and
the leases are made by one C call each, without a tuple of arguments.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t
from libc.string cimport memcmp

cdef extern from "Python.h":
    object PyObject_Vectorcall(object callable, PyObject *const *args, size_t nargs, PyObject *kwnames)

cdef enum:
    MAX_EPOCH_DIGITS = 15  # as in registry/lease.py

cdef struct parts_t:
    # Borrowed from the value, and as long-lived.
    int64_t epoch
    const char *node
    Py_ssize_t node_size
    const char *user
    Py_ssize_t user_size


def read(bytes value not None):
    cdef parts_t parts
    if not take_apart(value, &parts):
        return None
    return (
        PyUnicode_DecodeASCII(parts.node, parts.node_size, NULL),
        parts.epoch,
        PyUnicode_DecodeASCII(parts.user, parts.user_size, NULL),
    )


def read_all(client_ids, list values not None, make, otherwise):
    cdef parts_t parts
    cdef const char *known = NULL  # the node id that `node` is made of, in a value that the list keeps
    cdef Py_ssize_t known_size = 0, at = 0
    cdef PyObject *args[4]
    cdef object node = "", value, client_id, epoch, user
    cdef list found = []
    for client_id in client_ids:
        value = values[at]
        at += 1
        if value is None:
            found.append(None)
        elif PyBytes_CheckExact(value) and take_apart(value, &parts):
            if parts.node_size != known_size or memcmp(parts.node, known, known_size) != 0:
                node = PyUnicode_DecodeASCII(parts.node, parts.node_size, NULL)
                known, known_size = parts.node, parts.node_size
            epoch = parts.epoch
            user = PyUnicode_DecodeASCII(parts.user, parts.user_size, NULL)
            args[0], args[1], args[2], args[3] = (
                <PyObject *>client_id, <PyObject *>node, <PyObject *>epoch, <PyObject *>user
            )
            found.append(PyObject_Vectorcall(make, args, 4, NULL))
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
