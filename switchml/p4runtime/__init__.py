"""P4Runtime's vocabulary, for whoever speaks it: client, server, pipelines and packet scripts. It knows nobody.

entries.py      matches, actions, entries and the other values of a pipeline, by name, without protobuf
refusals.py     requests that can't be carried out, by gRPC status
schema.py       what a P4Info declares, by id and by name
data_types.py   P4Data and the plain integers that a pipeline has
bytestrings.py  binary strings
codec.py        messages -> values and back
stubs.py        the messages: the only door to the generated modules and to the extra `p4runtime`
"""
