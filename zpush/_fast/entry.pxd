# Stream entries and Kafka records as this version writes them.

# (message id, client id, payload, Kind, expires in Unix ms or 0) of a record with the headers id, type and perhaps
# expires, in order. None for any other form, also where it is a message. No argument but the key may be None.
cdef tuple read_headers(list headers, object key, bytes payload)
