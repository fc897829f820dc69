"""A provider on this machine that speaks all five wire shapes: recordings, made-up answers, and every fault.

For tests, the demo without a model, and the benchmark; it binds to loopback only. The way of a request:
``server`` (sockets) → ``wanted`` (what its model's name asks for) → ``shapes`` (what it was asked, a file a
shape) → ``script`` (what is answered) or a recording → ``faults`` → ``play`` (bytes with their times) →
``wheel`` (written when due) → ``seen`` (what a test can ask for afterwards).
"""
