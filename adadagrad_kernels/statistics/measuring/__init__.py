"""What all kinds of layers share while a step is measured.

``recorder`` follows a step; a call of a layer makes a use (``uses``), which a node or hook in the
graph (``graph_node``) brings its gradient; ``micro_batch`` keeps what was measured, and ``step``
makes the record of it. ``independence`` asks the model what its rows are: it runs ``trial`` calls
that leave all ``as_before``, from which ``rows`` and ``mixing`` judge; ``comparison`` holds what
was measured against ``one_sample`` by itself. ``arrivals``, ``samples`` and ``verify`` refuse what
would be another number.
"""
